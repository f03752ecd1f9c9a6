//! T1: the time to read one page over the bare port's round trip, and what sealing adds.

use std::time::{Duration, Instant};

use rum_net::{
    PAGE_BYTES,
    rpc::client::ClientEvent,
    wire::message::{PageRef, READ_REQUEST_MAX_BYTES, READ_RESPONSE_HEAD_BYTES, encode_read},
};

use super::{
    super::{
        figure::{Better, Figure, Label},
        stage::{BenchError, Measured, Stage, value},
        stats::{median, quantile},
        worker::{WorkerError, measured},
    },
    Turns,
    answer::key,
    over_media,
    rig::{Bare, Rig},
};

const GOAL: f64 = 1.25;
/// What sealing may add: a request and a page are sealed and opened, in microseconds.
const GOAL_SEALED_US: f64 = 3.0;

pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    over_media(stage, "T1", &["echo", "pages", "sealed"], |stage, answerers| {
        let (mut pairs, mut sealed) = (Vec::new(), Vec::new());
        for _ in 0..stage.runs {
            let run = answerers.worker(stage, "latency", &[])?;
            pairs.push((value(&run, "ours")?, value(&run, "base")?));
            sealed.push((value(&run, "sealed")?, value(&run, "ours")?));
        }
        let (suffix, medium) = (answerers.medium.suffix(), answerers.medium.name());
        let what = format!("{medium}: p50 of reading a page ÷ the bare port's round trip (64 B request, 4 KiB answer)");
        let figure = Label::new(format!("T1{suffix}"), what, "us").at_most(GOAL).figure(&pairs);
        let what = format!("{medium}: what sealing adds to the p50 of reading a page: ours − base, not ÷");
        Ok(vec![figure, added(format!("T1.sealed{suffix}"), what, &sealed)])
    })
}

/// The figure of a difference: the median of all pairs'.
fn added(id: String, what: String, pairs: &[(f64, f64)]) -> Figure {
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| (a.0 - a.1).total_cmp(&(b.0 - b.1)));
    let (ours, base) = sorted.get(sorted.len() / 2).copied().unwrap_or((f64::NAN, f64::NAN));
    let runs = pairs.len() as u32;
    Figure {
        id,
        what,
        value: ours - base,
        goal: GOAL_SEALED_US,
        better: Better::Lower,
        ours,
        base,
        unit: "us".into(),
        runs,
    }
}

pub fn worker(turns: Turns, echo: &str, pages: &str, sealed: &str) -> Result<Measured, WorkerError> {
    let mut bare = Bare::open(echo, PAGE_BYTES as u16)?;
    let (mut plain, mut shut) = (Rig::open(pages, None)?, Rig::open(sealed, None)?);
    plain.join(None)?;
    shut.join(Some(key()?))?;
    let refs = [plain.fill(0, 1)?, shut.fill(0, 1)?];
    let mut page = [0u8; PAGE_BYTES];
    let mut p50s = [const { Vec::new() }; 3];
    for _ in 0..turns.count {
        p50s[0].push(p50(turns.each, |_| {
            bare.round_trip(&mut |answer| {
                if let Some(bytes) = answer.last_chunk::<PAGE_BYTES>() {
                    page.copy_from_slice(bytes);
                }
            })
        })?);
        p50s[1].push(p50(turns.each, |count| read(&mut plain, &refs[0], count, &mut page))?);
        p50s[2].push(p50(turns.each, |count| read(&mut shut, &refs[1], count, &mut page))?);
    }
    std::hint::black_box(&page);
    let [base, ours, sealed] = p50s.map(|mut p50s| median(&mut p50s));
    Ok(measured([("base", base), ("ours", ours), ("sealed", sealed)]))
}

/// The median, in microseconds, of what `sample` gives in nanoseconds for so long, its first tenth not counted.
fn p50(time: Duration, mut sample: impl FnMut(usize) -> Result<u64, WorkerError>) -> Result<f64, WorkerError> {
    let (started, mut samples, mut count) = (Instant::now(), Vec::new(), 0);
    while started.elapsed() < time || samples.is_empty() {
        let took = sample(count)?;
        count += 1;
        if started.elapsed() > time / 10 {
            samples.push(took);
        }
    }
    Ok(quantile(&mut samples, 0.5) / 1e3)
}

/// Reads a page as a fault does: ask, poll until it is here.
fn read(rig: &mut Rig, pages: &[PageRef], count: usize, page: &mut [u8; PAGE_BYTES]) -> Result<u64, WorkerError> {
    let asked = [pages[count % pages.len()]];
    let begin = Instant::now();
    let mut message = [0; READ_REQUEST_MAX_BYTES];
    rig.request(0, encode_read(&asked, &mut message), &[]).ok_or(WorkerError::Usage)?;
    let mut is_here = false;
    while !is_here {
        rig.poll(&mut |_, _, event| match event {
            ClientEvent::Fragment { offset, bytes, .. } => {
                let bytes = &bytes[READ_RESPONSE_HEAD_BYTES.saturating_sub(offset).min(bytes.len())..];
                let at = offset.saturating_sub(READ_RESPONSE_HEAD_BYTES);
                if let Some(to) = page.get_mut(at..at + bytes.len()) {
                    to.copy_from_slice(bytes);
                }
            }
            ClientEvent::Complete { .. } => is_here = true,
            ClientEvent::Opened { .. } | ClientEvent::Reset => {}
        });
    }
    Ok(begin.elapsed().as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_the_middle_difference() {
        let figure = added("T1.sealed".into(), "x".into(), &[(9.0, 1.0), (3.0, 1.0), (5.0, 2.0)]);
        assert_eq!((figure.value, figure.ours, figure.base, figure.runs), (3.0, 5.0, 2.0, 3));
    }

    #[test]
    fn the_first_samples_are_not_counted() {
        let p50 = p50(Duration::from_millis(2), |count| Ok(if count == 0 { 1 } else { 7000 }));
        assert_eq!(p50.unwrap(), 7.0);
    }
}
