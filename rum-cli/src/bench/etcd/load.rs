//! Puts into etcd: unary calls of gRPC (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md) over HTTP/2, a connection for each client, all in one thread. The one message that is
//! sent is an `etcdserverpb.PutRequest` of two byte fields, written here by hand.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use tokio::{net::TcpStream, task::LocalSet};

use super::{
    super::{stage::Measured, worker::WorkerError},
    Puts, VALUE_BYTES, seconds,
};

/// A new cluster needs a moment until it takes puts.
const PATIENCE: Duration = Duration::from_secs(30);
/// Puts by which the fastest member is found.
const SAMPLES: usize = 50;

fn wrong(error: impl std::fmt::Display) -> WorkerError {
    WorkerError::Wrong(format!("etcd: {error}"))
}

/// One client with its connection.
struct Client {
    requests: SendRequest<Bytes>,
    port: u16,
    number: usize,
    round: u64,
}

impl Client {
    async fn connect(port: u16, number: usize) -> Result<Self, WorkerError> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::handshake(stream).await.map_err(wrong)?;
        // It ends when the requests do; what is wrong with it they say.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(Self { requests, port, number, round: 0 })
    }

    async fn put(&mut self) -> Result<(), WorkerError> {
        self.round += 1;
        let request = http::Request::post(format!("http://127.0.0.1:{}/etcdserverpb.KV/Put", self.port));
        let request = request.header("content-type", "application/grpc").header("te", "trailers").body(());
        let mut requests = self.requests.clone().ready().await.map_err(wrong)?;
        let (response, mut stream) = requests.send_request(request.map_err(wrong)?, false).map_err(wrong)?;
        stream.send_data(put_request(self.number, self.round), true).map_err(wrong)?;
        let response = response.await.map_err(wrong)?;
        let status = response.headers().get("grpc-status").cloned();
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            let bytes = data.map_err(wrong)?.len();
            body.flow_control().release_capacity(bytes).map_err(wrong)?;
        }
        let trailers = body.trailers().await.map_err(wrong)?.unwrap_or_default();
        match status.as_ref().or_else(|| trailers.get("grpc-status")) {
            Some(status) if status.as_bytes() == b"0" => Ok(()),
            status => {
                Err(wrong(format_args!("a put ended with status {status:?}, {:?}", trailers.get("grpc-message"))))
            }
        }
    }
}

/// The frame of gRPC around the message: field 1 the key, field 2 the value.
fn put_request(client: usize, round: u64) -> Bytes {
    let key = format!("client-{client}/{}", round % 256);
    let mut message = BytesMut::with_capacity(VALUE_BYTES + 64);
    for (tag, bytes) in [(0x0A, key.as_bytes()), (0x12, &[7; VALUE_BYTES][..])] {
        message.put_u8(tag);
        let mut length = bytes.len();
        while length >= 0x80 {
            message.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(bytes);
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put(message);
    frame.freeze()
}

pub fn etcd_puts_worker(ports: &str, clients: &str, measured_for: &str) -> Result<Measured, WorkerError> {
    let ports = ports.split(',').map(str::parse).collect::<Result<Vec<u16>, _>>().map_err(|_| WorkerError::Usage)?;
    let (clients, measured_for) = (clients.parse::<usize>().map_err(|_| WorkerError::Usage)?, seconds(measured_for)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, puts(&ports, clients, measured_for))
}

async fn puts(ports: &[u16], clients: usize, measured_for: Duration) -> Result<Measured, WorkerError> {
    let mut best = None;
    for &port in ports {
        let took = settle(port).await?;
        best = best.into_iter().chain([(took, port)]).min();
    }
    let (_, port) = best.ok_or(WorkerError::Usage)?;
    let mut all = Vec::new();
    for number in 0..clients {
        all.push(Client::connect(port, number).await?);
    }
    let puts = std::rc::Rc::new(std::cell::RefCell::new(Puts::begin(measured_for)));
    let tasks: Vec<_> = all
        .into_iter()
        .map(|mut client| {
            let puts = puts.clone();
            tokio::task::spawn_local(async move {
                while !puts.borrow().is_over() {
                    let sent = Instant::now();
                    client.put().await?;
                    puts.borrow_mut().done(sent);
                }
                Ok::<(), WorkerError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(wrong)??;
    }
    let puts = std::rc::Rc::try_unwrap(puts).map_err(|_| wrong("a client goes on"))?;
    Ok(puts.into_inner().measured())
}

/// Waits until a member takes puts, and says how long some of them take.
async fn settle(port: u16) -> Result<Duration, WorkerError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match sample(port).await {
            Ok(took) => return Ok(took),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn sample(port: u16) -> Result<Duration, WorkerError> {
    let mut client = Client::connect(port, usize::MAX).await?;
    client.put().await?;
    let begun = Instant::now();
    for _ in 0..SAMPLES {
        client.put().await?;
    }
    Ok(begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_a_frame_with_two_fields() {
        let frame = put_request(3, 300);
        assert_eq!(&frame[..5], [0, 0, 0, 1, 16]);
        assert_eq!(frame.len(), 5 + 272);
        assert_eq!(&frame[5..18], b"\x0A\x0Bclient-3/44");
        assert_eq!(&frame[18..21], [0x12, 0x80, 2]);
        assert!(frame[21..].iter().all(|&byte| byte == 7));
    }
}
