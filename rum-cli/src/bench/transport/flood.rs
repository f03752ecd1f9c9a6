//! T4: what an honest client keeps while another one floods the slave with hellos.

use rum_net::{
    rpc::{MAX_SLOTS, MIN_MTU},
    wire::{
        checksum::Checksummer,
        header::{HEADER_BYTES, Header, Kind},
        hello::Hello,
    },
};

use super::{
    super::{
        figure::{Figure, Label},
        stage::{BenchError, Measured, Stage, value},
        stats::median,
        worker::{WorkerError, measured},
    },
    Turns, over_media,
    reader::{Group, Reader, read, readers},
    rig::Rig,
};

const GOAL: f64 = 0.8;
/// Hellos sent in a round: as many as an honest client has requests under way.
const BURST: usize = MAX_SLOTS;

/// The turns: alone, beside another honest client, beside as many packets with a wrong checksum, beside a flood of hellos.
const SHARED: usize = 1;
const NOISE: usize = 2;
const FLOODED: usize = 3;

pub fn measure(stage: &mut Stage) -> Result<Vec<Figure>, BenchError> {
    over_media(stage, "T4", &["pages"], |stage, answerers| {
        let (mut fair, mut hellos, mut alone) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..stage.runs {
            let run = answerers.worker(stage, "flood", &[])?;
            fair.push((value(&run, "flooded")?, value(&run, "shared")?));
            hellos.push((value(&run, "flooded")?, value(&run, "noise")?));
            alone.push((value(&run, "flooded")?, value(&run, "alone")?));
        }
        let (suffix, medium) = (answerers.medium.suffix(), answerers.medium.name());
        let label = |id: &str, what: &str| {
            let what = format!("{medium}: {what}");
            Label::new(format!("{id}{suffix}"), what, "M/s").at_least(GOAL)
        };
        let beside = "pages a second of a client beside one that floods the slave with hellos";
        Ok(vec![
            label("T4", &format!("{beside} ÷ beside one that is as honest: its fair share")).figure(&fair),
            label(
                "T4.hellos",
                &format!("{beside} ÷ beside as many packets with a wrong checksum: what hellos cost the slave"),
            )
            .figure(&hellos),
            label("T4.alone", &format!("for information: {beside} ÷ alone")).figure(&alone),
        ])
    })
}

/// Hellos of as many clients that never come again, none with a cookie.
fn hellos() -> Vec<Vec<u8>> {
    let mut checksummer = Checksummer::new();
    let hello =
        |client| Hello { client, mtu: MIN_MTU as u32, slots: 1, channel: 0, cookie: [0; _], name: &[], handshake: &[] };
    let packet = |client| {
        let mut packet = vec![0; MIN_MTU];
        let length = HEADER_BYTES + hello(client).encode(&mut packet[HEADER_BYTES..]);
        Header::new(Kind::Hello, 0, 1).encode(&mut packet[..length], &[], &mut checksummer);
        packet
    };
    (1 << 64..(1 << 64) + 256u128).map(packet).collect()
}

/// Over vhost-user each has a port of its own, over Ethernet they share one.
pub fn worker(turns: Turns, link: &str) -> Result<Measured, WorkerError> {
    let has_links = link.starts_with("vhost:");
    let mut groups = vec![Group { rig: Rig::open(link, None)?, readers: Vec::new() }];
    if has_links {
        groups.push(Group { rig: Rig::open(link, None)?, readers: Vec::new() });
    }
    for client in 0..2 {
        let group = &mut groups[client * usize::from(has_links)];
        let session = group.rig.join(None)?;
        let pages = group.rig.fill(session, 1)?;
        group.readers.push(Reader::new(session, pages, 1, MAX_SLOTS));
    }
    let mut flooder = if has_links { Some(Rig::open(link, None)?) } else { None };
    let hellos = hellos();
    let mut noise = hellos.clone();
    noise.iter_mut().for_each(|packet| packet[HEADER_BYTES - 1] ^= 0xFF);
    let mut rates = [const { Vec::new() }; 4];
    for _ in 0..turns.count {
        for (kind, rates) in rates.iter_mut().enumerate() {
            let active = if kind == SHARED { 2 } else { 1 };
            let mut next = if kind == FLOODED { &hellos } else { &noise }.iter().cycle();
            let seconds = read(&mut groups, active, turns.each, &mut |groups| {
                if kind >= NOISE {
                    let rig = flooder.as_mut().unwrap_or(&mut groups[0].rig);
                    rig.send_raw(next.by_ref().take(BURST).map(Vec::as_slice));
                }
                if let Some(rig) = flooder.as_mut().filter(|_| kind >= NOISE) {
                    rig.poll(&mut |_, _, _| {});
                }
            });
            let honest = readers(&groups).next().map_or(0, |reader| reader.outcome.pages);
            rates.push(honest as f64 / seconds / 1e6);
        }
    }
    let [alone, shared, noise, flooded] = rates.map(|mut rates| median(&mut rates));
    Ok(measured([("alone", alone), ("shared", shared), ("noise", noise), ("flooded", flooded)]))
}
