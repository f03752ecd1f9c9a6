//! T2: pages streamed by batched reads over the bare port's streaming of the same bytes.

use rum_net::{EXTENT_PAGES, PAGE_BYTES, wire::message::MAX_BATCH_PAGES};

use super::{
    super::{
        figure::{Figure, Label},
        stage::{BenchError, Measured, Stage, value},
        stats::median,
        worker::{WorkerError, measured},
    },
    Turns,
    answer::{STREAMED_PAGES, key},
    over_media,
    reader::{Group, Reader, read, readers},
    rig::{Bare, Rig},
};

const GOAL: f64 = 0.85;
/// Bare packets under way.
const WINDOW: u64 = 128;
/// Requests under way.
const DEPTH: usize = 8;

pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    over_media(stage, "T2", &["echo", "pages", "sealed"], |stage, answerers| {
        let (mut pairs, mut sealed) = (Vec::new(), Vec::new());
        for _ in 0..stage.runs {
            let run = answerers.worker(stage, "page-stream", &[])?;
            pairs.push((value(&run, "ours")?, value(&run, "base")?));
            sealed.push((value(&run, "sealed")?, value(&run, "base")?));
        }
        let (suffix, medium) = (answerers.medium.suffix(), answerers.medium.name());
        let what = "pages read in batches of 32 and copied to local memory ÷ the bare port's streaming of them";
        let label = |id: &str, what: String| Label::new(format!("{id}{suffix}"), what, "GB/s").at_least(GOAL);
        Ok(vec![
            label("T2", format!("{medium}: {what}")).figure(&pairs),
            label("T2.sealed", format!("{medium}, for information: sealed {what}")).figure(&sealed),
        ])
    })
}

fn group(link: &str, is_sealed: bool) -> Result<Group, WorkerError> {
    let mut rig = Rig::open(link, None)?;
    let session = rig.join(if is_sealed { Some(key()?) } else { None })?;
    let pages = rig.fill(session, STREAMED_PAGES / EXTENT_PAGES)?;
    let reader = Reader::new(session, pages, MAX_BATCH_PAGES, DEPTH);
    Ok(Group { rig, readers: vec![reader] })
}

pub fn worker(turns: Turns, echo: &str, pages: &str, sealed: &str) -> Result<Measured, WorkerError> {
    let mut bare = Bare::open(echo, PAGE_BYTES as u16)?;
    let (mut plain, mut shut) = ([group(pages, false)?], [group(sealed, true)?]);
    let mut local = vec![1u8; STREAMED_PAGES * PAGE_BYTES];
    let mut at = 0;
    let gigabytes = |pages: f64| pages * PAGE_BYTES as f64 / 1e9;
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..turns.count {
        let bare = bare.stream(WINDOW, turns.each, &mut |answer| {
            if let Some(page) = answer.last_chunk::<PAGE_BYTES>() {
                local[at..at + PAGE_BYTES].copy_from_slice(page);
                at = (at + PAGE_BYTES) % (STREAMED_PAGES * PAGE_BYTES);
            }
        });
        rates[0].push(gigabytes(bare));
        for (groups, rates) in [&mut plain, &mut shut].into_iter().zip(&mut rates[1..]) {
            let seconds = read(groups, 1, turns.each, &mut |_| {});
            let pages: u64 = readers(groups).map(|reader| reader.outcome.pages).sum();
            rates.push(gigabytes(pages as f64 / seconds));
        }
    }
    std::hint::black_box(&local);
    let [base, ours, sealed] = rates.map(|mut rates| median(&mut rates));
    Ok(measured([("base", base), ("ours", ours), ("sealed", sealed)]))
}
