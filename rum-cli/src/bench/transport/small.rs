//! R12: small requests a second over the bare port's packets a second.

use std::time::{Duration, Instant};

use rum_net::rpc::{MAX_SLOTS, client::ClientEvent};

use super::{
    super::{
        figure::{Figure, Label},
        stage::{BenchError, Measured, Stage, value},
        stats::median,
        worker::{WorkerError, measured},
    },
    Turns, over_media,
    rig::{Bare, Rig},
};

const GOAL: f64 = 0.5;
/// Bare packets under way.
const WINDOW: u64 = 192;
const MESSAGE: [u8; 64] = [7; 64];

pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    over_media(stage, "R12", &["echo", "small"], |stage, answerers| {
        let mut pairs = Vec::new();
        for _ in 0..stage.runs {
            let run = answerers.worker(stage, "small", &[])?;
            pairs.push((value(&run, "ours")?, value(&run, "base")?));
        }
        let (id, medium) = (format!("R12{}", answerers.medium.suffix()), answerers.medium.name());
        let what = format!(
            "{medium}: requests of 64 B answered with 64 B ÷ 64 B packets echoed by the bare port, one core a side"
        );
        Ok(vec![Label::new(id, what, "M/s").at_least(GOAL).figure(&pairs)])
    })
}

pub fn worker(turns: Turns, echo: &str, small: &str) -> Result<Measured, WorkerError> {
    let mut bare = Bare::open(echo, 0)?;
    let mut rig = Rig::open(small, None)?;
    rig.join(None)?;
    let (mut ours, mut base) = (Vec::new(), Vec::new());
    for _ in 0..turns.count {
        base.push(bare.stream(WINDOW, turns.each, &mut |_| {}) / 1e6);
        ours.push(requests(&mut rig, turns.each) / 1e6);
    }
    Ok(measured([("ours", median(&mut ours)), ("base", median(&mut base))]))
}

/// Requests a second, with as many under way as a session may have.
fn requests(rig: &mut Rig, time: Duration) -> f64 {
    let (started, mut completed, mut under_way) = (Instant::now(), 0u64, 0);
    let mut now = started;
    while now - started < time || under_way > 0 {
        while now - started < time && under_way < MAX_SLOTS && rig.enqueue(now, 0, &MESSAGE).is_some() {
            under_way += 1;
        }
        rig.poll(&mut |_, _, event| {
            if let ClientEvent::Complete { .. } = event {
                (completed, under_way) = (completed + 1, under_way - 1);
            }
        });
        now = Instant::now();
    }
    completed as f64 / (now - started).as_secs_f64()
}
