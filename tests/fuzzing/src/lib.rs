//! What the fuzz targets do. Each takes any bytes and must return: without a panic, with bounded memory, and with what it
//! checks holding. The targets of `fuzz/` call these; the smoke test runs them over the committed corpora and mutations of
//! those.

mod counting;
mod cutter;
mod decoders;
mod endpoint;
mod replication;
pub mod seeds;

pub use cutter::Cutter;
pub use endpoint::{ENDPOINT_BYTES, Operation};

/// A decoder holds at most so many bytes, beyond a multiple of what it reads.
const DECODER_BYTES: usize = 1 << 20;

/// And this multiple.
const PER_BYTE: usize = 16;

/// A decoder of lists holds their entries, which are larger in memory than in a message, up to three times while a list grows. But a
/// list that claims to be long gets no room for that: the first bytes of a message justify nothing.
const LISTS_BYTES: usize = 16 << 10;
const LISTS_PER_BYTE: usize = 128;

/// A fuzz target.
#[derive(Clone, Copy)]
pub struct Target {
    /// As its file in `fuzz/fuzz_targets` and its folder in `fuzz/corpus`.
    pub name: &'static str,
    body: fn(&[u8]),
    most_bytes: usize,
    per_byte: usize,
}

impl Target {
    /// The target of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn named(name: &str) -> Self {
        *TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target {name}"))
    }

    /// Does what the target does with these bytes.
    ///
    /// # Panics
    /// When something is found.
    pub fn run(&self, bytes: &[u8]) {
        let most = counting::most_bytes(|| (self.body)(bytes));
        let limit = self.most_bytes + self.per_byte * bytes.len();
        assert!(most <= limit, "{} bytes of input took {most} bytes of memory, above {limit}", bytes.len());
    }
}

const fn decoder(name: &'static str, body: fn(&[u8])) -> Target {
    Target { name, body, most_bytes: DECODER_BYTES, per_byte: PER_BYTE }
}

const fn endpoint(name: &'static str, body: fn(&[u8])) -> Target {
    Target { name, body, most_bytes: ENDPOINT_BYTES, per_byte: PER_BYTE }
}

const fn lists(name: &'static str, body: fn(&[u8])) -> Target {
    Target { name, body, most_bytes: LISTS_BYTES, per_byte: LISTS_PER_BYTE }
}

/// All of them.
pub const TARGETS: [Target; 18] = [
    decoder("ethernet", decoders::ethernet),
    decoder("ipv4_udp", decoders::ipv4_udp),
    decoder("arp", decoders::arp),
    decoder("header", decoders::header),
    decoder("hello", decoders::hello),
    decoder("hello_retry", decoders::hello_retry),
    decoder("hello_ack", decoders::hello_ack),
    decoder("request", decoders::request),
    decoder("response", decoders::response),
    lists("peer_message", replication::peer_message),
    lists("directory_image", replication::directory_image),
    decoder("key_file", decoders::key_file),
    decoder("machines", decoders::machines),
    decoder("faults", decoders::faults),
    endpoint("server", endpoint::server),
    endpoint("client", endpoint::client),
    endpoint("server_sealed", endpoint::server_sealed),
    endpoint("client_sealed", endpoint::client_sealed),
];
