//! An Ethernet in this process. A test says of each packet whether it is delivered, lost, or kept until the test lets it go.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::RawFd,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use rum_net::{
    port::{LinkId, MacAddr, Port, TransmitError},
    wire::{
        ethernet::EthernetHeader,
        header::{Header, Kind},
        message::{ASK_HEAD_BYTES, COMMAND_HEAD_BYTES, Opcode},
    },
};

/// Packets carry a page and its headers.
const MTU: usize = 9000;
/// A sleeper looks again after this time, whatever else was to wake it.
const LONGEST_SLEEP: Duration = Duration::from_millis(2);

/// The number of a host, which is the last byte of its address.
pub type Host = u8;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Delivered,
    Lost,
    /// Until `Network::let_go`.
    Kept,
}

/// A packet that is not sealed, as it is seen on its way.
#[derive(Clone, Debug)]
pub struct Seen {
    pub from: Host,
    pub to: Host,
    pub kind: Kind,
    /// Of a message that is cut into several, the last.
    pub is_last_of_several: bool,
    /// Of a request's or response's first fragment: what is asked for; behind it what is in its envelope, if it is one.
    pub opcodes: Vec<Opcode>,
}

type Judge = Box<dyn FnMut(&Seen) -> Fate + Send>;
type RequestName = (Host, u64, u64);

struct Inner {
    queues: HashMap<Host, VecDeque<Vec<u8>>>,
    judge: Judge,
    kept: Vec<Vec<u8>>,
    /// What was asked for, by the host that did.
    asked: HashMap<RequestName, Vec<Opcode>>,
}

/// Clones are the same network.
#[derive(Clone)]
pub struct Network(Arc<(Mutex<Inner>, Condvar)>);

pub fn address(host: Host) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, host])
}

fn opcodes(request: &[u8]) -> Vec<Opcode> {
    let opcode = |at: usize| Opcode::ALL.into_iter().find(|&opcode| Some(&(opcode as u8)) == request.get(at));
    let outer = opcode(0);
    let inner = match outer {
        Some(Opcode::Command) => opcode(COMMAND_HEAD_BYTES),
        Some(Opcode::Ask) => opcode(ASK_HEAD_BYTES),
        _ => None,
    };
    outer.into_iter().chain(inner).collect()
}

impl Network {
    /// On which everything is delivered.
    pub fn new() -> Self {
        let judge = Box::new(|_: &Seen| Fate::Delivered);
        let inner = Inner { queues: HashMap::new(), judge, kept: vec![], asked: HashMap::new() };
        Self(Arc::new((Mutex::new(inner), Condvar::new())))
    }

    /// The port of a host. One that had a port before begins with an empty queue.
    pub fn port(&self, host: Host) -> Box<dyn Port> {
        self.0.0.lock().unwrap().queues.insert(host, VecDeque::new());
        Box::new(NetworkPort { network: self.clone(), host, name: format!("memory:{host}") })
    }

    /// From now on packets fare as this says.
    pub fn judge(&self, judge: impl FnMut(&Seen) -> Fate + Send + 'static) {
        self.0.0.lock().unwrap().judge = Box::new(judge);
    }

    /// Delivers what was kept, and all that comes from now on. Returns how many packets were kept.
    pub fn let_go(&self) -> usize {
        self.judge(|_| Fate::Delivered);
        let kept = std::mem::take(&mut self.0.0.lock().unwrap().kept);
        kept.iter().for_each(|frame| self.deliver(frame));
        kept.len()
    }

    fn deliver(&self, frame: &[u8]) {
        let MacAddr([.., to]) = EthernetHeader::decode(frame).expect("a frame").0.destination;
        if let Some(queue) = self.0.0.lock().unwrap().queues.get_mut(&to) {
            queue.push_back(frame.to_vec());
        }
        self.0.1.notify_all();
    }

    fn send(&self, frame: Vec<u8>) {
        let fate = self.0.0.lock().unwrap().look(&frame);
        match fate {
            Fate::Delivered => self.deliver(&frame),
            Fate::Lost => {}
            Fate::Kept => self.0.0.lock().unwrap().kept.push(frame),
        }
    }
}

impl Inner {
    fn look(&mut self, frame: &[u8]) -> Fate {
        let Some((ethernet, packet)) = EthernetHeader::decode(frame) else { return Fate::Lost };
        let Ok(parsed) = Header::decode(packet) else { return Fate::Delivered };
        let (MacAddr([.., from]), MacAddr([.., to])) = (ethernet.source, ethernet.destination);
        let Header { kind, session, request, offset, message_bytes, .. } = parsed.header;
        let is_last_of_several = offset > 0 && offset as usize + parsed.payload.len() == message_bytes as usize;
        let opcodes = match kind {
            Kind::Request if offset == 0 => {
                let opcodes = opcodes(parsed.payload);
                self.asked.insert((from, session, request), opcodes.clone());
                opcodes
            }
            Kind::Response if offset == 0 => self.asked.get(&(to, session, request)).cloned().unwrap_or_default(),
            _ => vec![],
        };
        (self.judge)(&Seen { from, to, kind, is_last_of_several, opcodes })
    }
}

struct NetworkPort {
    network: Network,
    host: Host,
    name: String,
}

impl Port for NetworkPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn mac(&self) -> MacAddr {
        address(self.host)
    }

    fn mtu(&self) -> usize {
        MTU
    }

    fn transmit(&mut self, _: LinkId, parts: &[&[u8]]) -> Result<(), TransmitError> {
        self.network.send(parts.concat());
        Ok(())
    }

    fn flush(&mut self) {}

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(LinkId, &[u8])) -> usize {
        let mut inner = self.network.0.0.lock().unwrap();
        let queue = inner.queues.get_mut(&self.host).expect("entered with the port");
        let frames: Vec<_> = queue.drain(..budget.min(queue.len())).collect();
        drop(inner);
        frames.iter().for_each(|frame| sink(LinkId(0), frame));
        frames.len()
    }

    fn wait(&mut self, timeout: Duration, _: Option<RawFd>) -> io::Result<()> {
        let (inner, changed) = &*self.network.0;
        let is_empty = |inner: &mut Inner| inner.queues[&self.host].is_empty();
        drop(changed.wait_timeout_while(inner.lock().unwrap(), timeout.min(LONGEST_SLEEP), is_empty));
        Ok(())
    }
}
