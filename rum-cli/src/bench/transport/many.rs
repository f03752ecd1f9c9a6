//! T3: what 64 clients of one slave get together, and how fairly.

use rum_net::rpc::MAX_SLOTS;

use super::{
    super::{
        figure::{Figure, Label},
        stage::{BenchError, Measured, Stage, value},
        stats::{fairness, median},
        worker::{WorkerError, measured},
    },
    Turns, over_media,
    reader::{Group, Reader, read, readers},
    rig::Rig,
};

const CLIENTS: usize = 64;
const GOAL: f64 = 0.9;
const GOAL_FAIRNESS: f64 = 0.95;

pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    over_media(stage, "T3", &["pages"], |stage, answerers| {
        let (mut pairs, mut fair) = (Vec::new(), Vec::new());
        for _ in 0..stage.runs {
            let run = answerers.worker(stage, "many", &[])?;
            pairs.push((value(&run, "all")?, value(&run, "one")?));
            fair.push((value(&run, "fairness")?, 1.0));
        }
        let (suffix, medium) = (answerers.medium.suffix(), answerers.medium.name());
        let label =
            |id: &str, what: String, unit| Label::new(format!("{id}{suffix}"), format!("{medium}: {what}"), unit);
        let what = format!("pages a second to {CLIENTS} clients of one slave ÷ to one, 32 requests under way each");
        Ok(vec![
            label("T3", what, "M/s").at_least(GOAL).figure(&pairs),
            label("T3.fair", format!("Jain's fairness index of {CLIENTS} clients ÷ 1"), "index")
                .at_least(GOAL_FAIRNESS)
                .figure(&fair),
        ])
    })
}

/// On vhost-user each client has a port of its own, on Ethernet they share one: all are in this thread.
pub fn worker(turns: Turns, link: &str) -> Result<Measured, WorkerError> {
    let rigs = if link.starts_with("vhost:") { CLIENTS } else { 1 };
    let mut groups = Vec::new();
    for _ in 0..rigs {
        let mut group = Group { rig: Rig::open(link, None)?, readers: Vec::new() };
        for _ in 0..CLIENTS / rigs {
            let session = group.rig.join(None)?;
            let pages = group.rig.fill(session, 1)?;
            group.readers.push(Reader::new(session, pages, 1, MAX_SLOTS));
        }
        groups.push(group);
    }
    let (mut one, mut all, mut fair) = (Vec::new(), Vec::new(), Vec::new());
    // So many clients need longer than one for as much each.
    let time = turns.each * 4;
    for _ in 0..turns.count {
        let seconds = read(&mut groups, 1, turns.each, &mut |_| {});
        one.push(readers(&groups).map(|reader| reader.outcome.pages as f64).sum::<f64>() / seconds / 1e6);
        let seconds = read(&mut groups, CLIENTS, time, &mut |_| {});
        let each: Vec<f64> = readers(&groups).map(|reader| reader.outcome.pages as f64).collect();
        all.push(each.iter().sum::<f64>() / seconds / 1e6);
        fair.push(fairness(&each));
    }
    Ok(measured([("one", median(&mut one)), ("all", median(&mut all)), ("fairness", median(&mut fair))]))
}
