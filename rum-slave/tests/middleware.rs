//! Faults and captures as a user asks for them: of a slave by its options, of a client by its environment.

mod support;

use std::{env, fs, path::Path, process::Command};

use rum_net::port::open_client;
use support::{TestClient, page, pattern, process::SlaveProcess};

/// Of the child that is a client: the link to its slave.
const CHILD_VARIABLE: &str = "RUM_SLAVE_TEST_LINK";

fn is_capture(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.starts_with(&[0x0A, 0x0D, 0x0D, 0x0A]) && bytes.len() > 10_000)
}

/// Not a test by itself: the client of the next one.
#[test]
fn the_child_that_is_a_client() {
    let Ok(link) = env::var(CHILD_VARIABLE) else { return };
    let mut client = TestClient::connect(open_client(&link.parse().unwrap()).unwrap_or_else(|error| panic!("{error}")));
    let extent = client.reserve(1).unwrap()[0];
    for number in 0..50 {
        client.write(&[(page(extent, number), &pattern(u64::from(number)))]).unwrap();
    }
    for number in 0..50 {
        assert_eq!(client.read(&[page(extent, number)]).unwrap(), [pattern(u64::from(number))]);
    }
    client.bye().unwrap();
}

#[test]
fn slave_and_client_capture_and_survive_the_faults_asked_for() {
    let directory = tempfile::Builder::new().prefix("rum-slave").tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (of_slave, of_client) = (file("slave.pcapng"), file("client.pcapng"));
    let socket = directory.path().join("s");
    let faults = "loss=0.2,dup=0.1,seed=3";
    let slave = SlaveProcess::start(&socket, &["-m", "64M", "--inject", faults, "--capture", &of_slave]);
    let told = format!("vhost:{} captured in {of_slave} with {faults}", socket.display());
    assert!(slave.ready_line.contains(&told), "{}", slave.ready_line);

    let child = |faults: &str| {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", "the_child_that_is_a_client", "--nocapture"])
            .env(CHILD_VARIABLE, format!("vhost:{}", socket.display()))
            .env("RUM_CAPTURE", &of_client)
            .env("RUM_INJECT", faults)
            .output()
            .unwrap()
    };
    let output = child("burst=0.02:3,latency=20us,seed=4");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let told =
        format!("rum: port vhost:{} captured in {of_client} with burst=0.02:3,latency=20us,seed=4", socket.display());
    assert!(errors.contains(&told), "{errors}");
    assert!(is_capture(Path::new(&of_client)));
    let output = child("loss=2");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("RUM_INJECT"), "{errors}");

    slave.signal(nix::sys::signal::Signal::SIGTERM);
    let (status, rest) = slave.wait();
    assert_eq!(status.code(), Some(0));
    assert!(rest.contains(", dropped: injected_loss "), "{rest}");
    assert!(is_capture(Path::new(&of_slave)));
}
