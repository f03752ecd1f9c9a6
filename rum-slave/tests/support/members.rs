//! Slaves in threads of this process, on a network of the test's, that replicate or not, and a client of theirs that says what it is told to.

use std::{
    collections::HashMap,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rum_net::{
    fabric::{Fabric, PeerIndex},
    machines::Machine,
    port::{Port, split::split},
    rpc::{
        Incarnation, MAX_MESSAGE_BYTES,
        client::{ClientEvent, RequestId},
    },
    station::{Station, spec::LinkSpec},
    wire::message::{Opcode, Request, Status, ask_head, command_head, decode_not_leader},
};
use rum_slave::{
    Options, Slave,
    replication::ReplicationOptions,
    stop::{Stopper, stop},
};

use super::{
    DEADLINE,
    network::{Host, Network, address},
};

const SLAVES: usize = 3;
/// Silence after which another slave is asked.
const PATIENCE: Duration = Duration::from_millis(300);

fn link() -> LinkSpec {
    "af_packet:rum0".parse().expect("a link")
}

fn machines() -> Vec<Machine> {
    let machine = |number: usize| Machine {
        ip: format!("10.0.0.{}", number + 1),
        mac: address(number as Host),
        link: link(),
        name: Some(format!("slave-{number}")),
        memory_bytes: None,
    };
    (0..SLAVES).map(machine).collect()
}

/// A slave in a thread; ends when dropped.
struct Member {
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stopper.stop();
        self.thread.take().map(JoinHandle::join);
    }
}

/// The slaves of a grid that keeps each page `factor` times, and their network. Its hosts of smaller numbers are slaves.
pub struct Members {
    pub network: Network,
    pub factor: usize,
    _members: Vec<Member>,
}

impl Members {
    pub fn start(factor: usize, memory_each: u64, lease: Duration) -> Self {
        let network = Network::new();
        let start = |number: usize| {
            let replication = ReplicationOptions::new(machines(), factor, number as u16);
            let replication = (factor > 1).then_some(replication);
            let options = Options { lease, replication, ..Options::new(memory_each) };
            let (serving, asking) = split(network.port(number as Host));
            let serving: Box<dyn Port> = Box::new(serving);
            let own = (link(), Box::new(asking) as Box<dyn Port>);
            let mut slave = Slave::with_own_port(vec![serving], options, Some(own)).expect("a slave");
            let (stopper, stop) = stop().expect("descriptors");
            let thread = thread::spawn(move || {
                slave.run(&stop);
            });
            Member { stopper, thread: Some(thread) }
        };
        Self { factor, _members: (0..SLAVES).map(start).collect(), network }
    }

    /// A client on a host of its own.
    pub fn client(&self, host: Host) -> MemberClient {
        let mut fabric = Fabric::new(Incarnation(rand::random()), None);
        let station = fabric.add_station(link(), Station::raw(self.network.port(host)));
        for machine in machines() {
            fabric.add_peer_at(station, machine.mac, None, MAX_MESSAGE_BYTES).expect("an address");
        }
        MemberClient {
            fabric,
            is_replicated: self.factor > 1,
            leader: 0,
            sequence: 0,
            settled: 0,
            resets: 0,
            responses: HashMap::new(),
            complete: HashMap::new(),
        }
    }
}

/// A request under way: to which slave, and as what.
pub type Asked = (PeerIndex, RequestId);

/// A client of the group that slave 0 leads while it can, or of slave 0 alone.
pub struct MemberClient {
    pub fabric: Fabric,
    is_replicated: bool,
    /// The slave that led when it was asked last.
    pub leader: usize,
    /// Of the last command, and of the last that is answered like all before it.
    sequence: u64,
    settled: u64,
    /// Sessions that a slave did not know any more.
    resets: u32,
    responses: HashMap<Asked, Vec<u8>>,
    complete: HashMap<Asked, Vec<u8>>,
}

/// What a slave is asked may change what it keeps.
fn changes(opcode: Opcode) -> bool {
    match opcode {
        Opcode::Reserve | Opcode::Release | Opcode::Write | Opcode::OpenName | Opcode::FreeName | Opcode::Bye => true,
        Opcode::Stat | Opcode::Read | Opcode::NameExtents | Opcode::Renew | Opcode::Describe | Opcode::Names => false,
        Opcode::Command | Opcode::Ask | Opcode::Peer => unreachable!("an envelope"),
    }
}

impl MemberClient {
    /// Takes and sends what there is. A session that the slave does not know any more is opened again.
    pub fn poll(&mut self) {
        let Self { fabric, responses, complete, .. } = self;
        let mut reset = vec![];
        fabric.poll(&mut |peer, event| match event {
            ClientEvent::Opened { .. } => {}
            ClientEvent::Fragment { request, offset, bytes } => {
                let response = responses.entry((peer, request)).or_default();
                response.resize(response.len().max(offset + bytes.len()), 0);
                response[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            ClientEvent::Complete { request, .. } => {
                let response = responses.remove(&(peer, request)).unwrap_or_default();
                complete.insert((peer, request), response);
            }
            ClientEvent::Reset => reset.push(peer),
        });
        self.resets += reset.len() as u32;
        for peer in reset {
            self.fabric.session_mut(peer).reopen(Instant::now());
        }
    }

    /// What is to be sent for a request. A command has the next number, and says that all before it are answered that are.
    pub fn envelope(&mut self, message: &[u8]) -> Vec<u8> {
        let opcode = Request::decode(message).expect("a request").opcode();
        let head = match opcode {
            Opcode::Describe => vec![],
            _ if !self.is_replicated => vec![],
            opcode if changes(opcode) => {
                self.sequence += 1;
                command_head(0, self.sequence, self.settled).to_vec()
            }
            _ => ask_head(0).to_vec(),
        };
        [&head, message].concat()
    }

    /// Sends something to a slave as soon as it can.
    pub fn send(&mut self, slave: usize, whole: &[u8]) -> Asked {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Ok(request) = self.fabric.request(PeerIndex(slave), whole, &[]) {
                return (PeerIndex(slave), request);
            }
            assert!(Instant::now() < deadline, "slave {slave} opens no session");
            self.poll();
            self.fabric.idle(Duration::from_millis(1));
        }
    }

    /// The answer, if it comes before `deadline` and a session's end.
    pub fn answer(&mut self, asked: Asked, deadline: Instant) -> Option<Vec<u8>> {
        let resets = self.resets;
        while !self.complete.contains_key(&asked) && self.resets == resets && Instant::now() < deadline {
            self.poll();
            self.fabric.idle(Duration::from_millis(1));
        }
        self.complete.remove(&asked)
    }

    /// Asks whoever leads until there is an answer, the same each time.
    pub fn ask(&mut self, message: &[u8]) -> Vec<u8> {
        let whole = self.envelope(message);
        let deadline = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < deadline, "no answer to request {}", message[0]);
            let asked = self.send(self.leader, &whole);
            let until = if self.is_replicated { Instant::now() + PATIENCE } else { deadline };
            let answer = self.answer(asked, until);
            match answer.as_deref().map(|answer| (decode_not_leader(answer), answer)) {
                Some((None, answer)) => return answer.to_vec(),
                Some((Some(Some(leader)), _)) => self.leader = usize::from(leader),
                Some((Some(None), _)) | None if self.is_replicated => self.leader = (self.leader + 1) % SLAVES,
                Some((Some(None), _)) | None => {}
            }
            if answer.is_some() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// As `ask`; everything before is answered, too.
    pub fn settle(&mut self, message: &[u8]) -> Vec<u8> {
        let answer = self.ask(message);
        self.settled = self.sequence;
        answer
    }
}

/// What an answer begins with.
pub fn status(answer: &[u8]) -> Status {
    Status::ALL[usize::from(answer[0])]
}
