//! R9: what it costs to lose one packet in a thousand.

use rum_net::rpc::MAX_SLOTS;

use super::{
    super::{
        figure::{Figure, Label},
        stage::{BenchError, Measured, Stage, value},
        stats::quantile,
        worker::{WorkerError, measured},
    },
    Turns, over_media,
    reader::{Group, Reader, read},
    rig::Rig,
};

const LOSS: f64 = 0.001;
const GOAL: f64 = 0.9;
const GOAL_STALL: f64 = 10.0;

pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    over_media(stage, "R9", &["pages"], |stage, answerers| {
        let (mut pairs, mut stalls, mut lossless_stalls) = (Vec::new(), Vec::new(), Vec::new());
        for run in 0..stage.runs {
            // The middleware costs time without losses, too.
            let lossless = answerers.worker(stage, "loss", &[&format!("loss=0,seed={run}")])?;
            let lossy = answerers.worker(stage, "loss", &[&format!("loss={LOSS},seed={run}")])?;
            pairs.push((value(&lossy, "rate")?, value(&lossless, "rate")?));
            stalls.push((value(&lossy, "stall")?, value(&lossy, "p50")?));
            lossless_stalls.push((value(&lossless, "stall")?, value(&lossless, "p50")?));
        }
        let (suffix, medium) = (answerers.medium.suffix(), answerers.medium.name());
        let stall = "the longest time without a request completed ÷ p50 of a request";
        let label = |id: &str, what: String| Label::new(format!("{id}{suffix}"), format!("{medium}: {what}"), "us");
        let what = "pages a second, 32 requests under way, at 0.1 % loss each way ÷ without loss".to_owned();
        Ok(vec![
            Label { unit: "M/s", ..label("R9", what) }.at_least(GOAL).figure(&pairs),
            label("R9.stall", format!("{stall}, at 0.1 % loss")).at_most(GOAL_STALL).figure(&stalls),
            label("R9.lossless", format!("for information: {stall}, without loss: the machine's own"))
                .at_most(GOAL_STALL)
                .figure(&lossless_stalls),
        ])
    })
}

pub fn worker(turns: Turns, faults: &str, pages: &str) -> Result<Measured, WorkerError> {
    let mut rig = Rig::open(pages, Some(faults))?;
    let session = rig.join(None)?;
    let pages = rig.fill(session, 1)?;
    let mut groups = [Group { rig, readers: vec![Reader::new(session, pages, 1, MAX_SLOTS)] }];
    read(&mut groups, 1, turns.each / 4, &mut |_| {});
    let seconds = read(&mut groups, 1, turns.each * turns.count, &mut |_| {});
    let outcome = &mut groups[0].readers[0].outcome;
    let p50 = quantile(&mut outcome.latencies, 0.5);
    Ok(measured([
        ("rate", outcome.pages as f64 / seconds / 1e6),
        ("stall", outcome.stall as f64 / 1e3),
        ("p50", p50 / 1e3),
    ]))
}
