//! Losses that later packets show are mended without a timer, and the MTU is found.

use super::*;

/// Delivers everything at once, less the packets that `is_lost` says, which sees each packet's header once.
fn run_losing(pair: &mut Pair, mut is_lost: impl FnMut(&Header) -> bool) {
    loop {
        pair.poll_client();
        pair.poll_server();
        if let Some(packet) = pair.to_server.pop_front() {
            if !is_lost(&Header::decode(&packet).unwrap().header) {
                pair.deliver_to_server(&packet);
            }
        } else if let Some(packet) = pair.to_client.pop_front() {
            if !is_lost(&Header::decode(&packet).unwrap().header) {
                pair.deliver_to_client(&packet);
            }
        } else {
            return;
        }
    }
}

#[test]
fn a_fragment_lost_in_the_middle_is_sent_again_without_a_timer() {
    for kind in [Kind::Request, Kind::Response] {
        let mut pair = Pair::open(1500);
        let mut lost = 0;
        pair.request(&message(20_000, 20_000, 1));
        run_losing(&mut pair, |header| {
            let is_lost = header.kind == kind && header.offset == 3 * 1456 && lost == 0;
            lost += u32::from(is_lost);
            is_lost
        });
        assert_eq!((lost, pair.complete.len()), (1, 1), "{kind:?}");
        let stats = pair.client.stats();
        assert_eq!((stats.timeouts, stats.losses), (0, 1), "{kind:?}");
        assert_eq!(pair.client.stats().drops.duplicate + pair.server.stats().drops.duplicate, 0, "{kind:?}");
    }
}

#[test]
fn a_short_request_or_its_answer_is_missed_when_three_later_ones_are_answered() {
    for kind in [Kind::Request, Kind::Response] {
        let mut pair = Pair::open(1500);
        let mut lost = 0;
        for seed in 0..6 {
            pair.request(&message(40, 40, seed));
        }
        run_losing(&mut pair, |header| {
            let is_lost = header.kind == kind && header.request % 8 == 1 && lost == 0;
            lost += u32::from(is_lost);
            is_lost
        });
        assert_eq!((lost, pair.complete.len(), pair.executed.len()), (1, 6, 6), "{kind:?}");
        assert_eq!((pair.client.stats().timeouts, pair.client.stats().losses), (0, 1), "{kind:?}");
    }
}

#[test]
fn packets_that_overtake_one_another_by_two_are_no_loss() {
    let mut pair = Pair::open(1500);
    pair.request(&message(20, 20_000, 1));
    pair.poll_client();
    let packets: Vec<_> = pair.to_server.drain(..).collect();
    for group in packets.chunks(3) {
        for packet in group.iter().rev() {
            pair.deliver_to_server(packet);
        }
    }
    pair.run();
    assert_eq!((pair.complete.len(), pair.client.stats().losses, pair.client.stats().sent_again), (1, 0, 0));
}

#[test]
fn a_request_that_is_executed_for_long_is_not_sent_again() {
    let mut pair = Pair::open(1500);
    pair.answering = Answering::Later;
    pair.request(&message(40, 40, 1));
    pair.run();
    let (first, _) = pair.executed[0].clone();
    for seed in 0..40 {
        pair.request(&message(40, 40, seed));
        pair.run();
        let (token, message) = pair.executed.last().unwrap().clone();
        pair.server.respond(token, &answer(&message));
        pair.run();
    }
    assert_eq!(pair.client.stats().sent_again, 1, "once it looks lost; then the server says that it is at work");
    assert_eq!(pair.executed.len(), 41);
    pair.server.respond(first, b"at last");
    pair.run();
    assert_eq!(pair.complete.len(), 41);
}

#[test]
fn what_waits_for_the_window_is_sent_when_it_opens() {
    let mut pair = Pair::new(1500);
    pair.client = Client::new(ClientConfig { slots: 32, ..client_config(1500) }, None, pair.now);
    pair.run();
    // A silent network closes the window.
    pair.request(&message(40, 40, 0));
    for _ in 0..10 {
        pair.lose_all();
        pair.step_to_timeout();
    }
    assert_eq!(pair.client.window(), 1);
    for seed in 1..32 {
        pair.request(&message(3000, 40, seed));
    }
    pair.poll_client();
    assert_eq!(pair.to_server.len(), 1);
    pair.run();
    assert_eq!((pair.complete.len(), pair.executed.len()), (32, 32));
    assert!(pair.client.window() > 1);
}

/// Delivers only packets up to a length, as a network does.
fn run_over(pair: &mut Pair, longest: usize) {
    for _ in 0..100 {
        pair.poll_client();
        pair.poll_server();
        for packet in std::mem::take(&mut pair.to_server).iter().filter(|packet| packet.len() <= longest) {
            pair.deliver_to_server(packet);
        }
        for packet in std::mem::take(&mut pair.to_client).iter().filter(|packet| packet.len() <= longest) {
            pair.deliver_to_client(packet);
        }
        if pair.client.is_open() {
            return;
        }
        if pair.client.poll_timeout().is_some_and(|at| at > pair.now) {
            pair.step_to_timeout();
        }
    }
}

#[test]
fn the_mtu_that_comes_through_is_found() {
    for (own, path, found) in [(9000, 9000, 9000), (9000, 1500, 1500), (65_535, 9000, 8972), (8972, 1472, 1472)] {
        let mut pair = Pair::new(own);
        let start = pair.now;
        run_over(&mut pair, path);
        assert!(pair.client.is_open(), "{own} over {path}");
        assert_eq!(pair.client.mtu(), found);
        let took = pair.now - start;
        assert!(took < Duration::from_secs(1), "{own} over {path}: {took:?}");
        pair.assert_round_trip(&message(20_000, 20_000, 1));
        assert!(pair.longest <= path, "{own} over {path}: {} bytes", pair.longest);
    }
}

/// Karn's rule alone would never learn the new time: each request is sent again before its answer comes.
#[test]
fn a_way_that_became_slow_is_learnt_although_requests_are_sent_again() {
    let mut pair = Pair::open(1500);
    let round_trip = |pair: &mut Pair, time: Duration| {
        let (sent_again, arrives) = (pair.client.stats().sent_again, pair.now + time);
        pair.request(&message(40, 40, 1));
        while pair.now < arrives {
            pair.poll_client();
            pair.now += Duration::from_micros(5);
        }
        pair.run();
        pair.client.stats().sent_again - sent_again
    };
    for _ in 0..50 {
        assert_eq!(round_trip(&mut pair, Duration::from_micros(5)), 0);
    }
    let slow: Vec<_> = (0..40).map(|_| round_trip(&mut pair, Duration::from_millis(3))).collect();
    assert!(slow[0] > 0, "sent again, and for nothing");
    assert_eq!(slow[20..].iter().sum::<u64>(), 0, "{slow:?}");
    assert_eq!((pair.complete.len(), pair.executed.len()), (90, 90));
}

/// Packets of a length that nobody was there to answer say nothing about the way.
#[test]
fn a_server_that_starts_late_is_asked_for_the_longest_mtu() {
    for unanswered in [1, 7, 30] {
        let mut pair = Pair::new(9000);
        for _ in 0..unanswered {
            pair.lose_all();
            pair.step_to_timeout();
        }
        run_over(&mut pair, 9000);
        assert_eq!(pair.client.mtu(), 9000, "after {unanswered} hellos");
        // So is one that comes back, of which the time of a round trip is known.
        pair.assert_round_trip(&message(2000, 2000, 1));
        pair.client.reopen(pair.now);
        for _ in 0..unanswered {
            pair.lose_all();
            pair.step_to_timeout();
        }
        run_over(&mut pair, 9000);
        assert_eq!(pair.client.mtu(), 9000, "after {unanswered} hellos of the second session");
    }
}

#[test]
fn requests_that_wait_for_the_answers_to_others_are_not_sent_again() {
    let mut pair = Pair::open(1500);
    // Round trips are short while nobody else asks.
    for seed in 0..20 {
        pair.now += Duration::from_micros(20);
        pair.assert_round_trip(&message(40, 40, seed));
    }
    for seed in 0..8 {
        pair.request(&message(120_000, 40, seed));
    }
    // A packet each 15 µs: the last answer begins after some 8 ms.
    while pair.complete.len() < 28 {
        pair.poll_client();
        pair.poll_server();
        while let Some(packet) = pair.to_server.pop_front() {
            pair.deliver_to_server(&packet);
        }
        if let Some(packet) = pair.to_client.pop_front() {
            pair.deliver_to_client(&packet);
        }
        pair.now += Duration::from_micros(15);
    }
    let stats = pair.client.stats();
    assert_eq!((stats.timeouts, stats.sent_again, stats.drops.duplicate), (0, 0, 0));
}

#[test]
fn a_request_that_is_lost_while_others_are_answered_is_sent_again_when_its_turn_is_over() {
    let mut pair = Pair::open(1500);
    for seed in 0..8 {
        pair.request(&message(120_000, 40, seed));
    }
    let (mut lost, started) = (0, pair.now);
    while pair.complete.len() < 8 {
        pair.poll_client();
        pair.poll_server();
        while let Some(packet) = pair.to_server.pop_front() {
            let header = Header::decode(&packet).unwrap().header;
            // The last of all, so that nothing later shows it.
            if header.kind == Kind::Request && pair.executed.len() == 7 && lost == 0 {
                lost = header.request;
            } else {
                pair.deliver_to_server(&packet);
            }
        }
        if let Some(packet) = pair.to_client.pop_front() {
            pair.deliver_to_client(&packet);
        }
        pair.now += Duration::from_micros(15);
        assert!(pair.now - started < Duration::from_secs(2), "request {lost} is not sent again");
    }
    assert!(lost > 0);
}

/// The thread that polls may compute for a second between two polls.
#[test]
fn answers_that_lay_at_the_port_while_nobody_looked_are_neither_late_nor_lost() {
    let mut pair = Pair::open(1500);
    for _ in 0..50 {
        pair.assert_round_trip(&message(20_000, 40, 1));
        pair.now += Duration::from_micros(5);
        pair.client.looked(pair.now);
    }
    let before = (pair.client.stats(), pair.client.window());
    for seed in 0..50 {
        pair.request(&message(20_000, 40, seed));
        pair.poll_client();
        for packet in std::mem::take(&mut pair.to_server) {
            pair.deliver_to_server(&packet);
        }
        pair.poll_server();
        pair.now += Duration::from_secs(1);
        // A request before the port was polled.
        pair.request(&message(40, 40, seed));
        pair.run();
        pair.client.looked(pair.now);
    }
    let stats = pair.client.stats();
    assert_eq!(
        (stats.timeouts, stats.losses, stats.sent_again),
        (before.0.timeouts, before.0.losses, before.0.sent_again)
    );
    assert!(pair.client.window() >= before.1, "{} packets after {}", pair.client.window(), before.1);
    // What is really lost is missed as soon as ever: what was learnt of the way stands.
    pair.request(&message(40, 40, 1));
    pair.lose_all();
    let (start, timeouts) = (pair.now, stats.timeouts);
    while pair.client.stats().timeouts == timeouts {
        pair.now += Duration::from_micros(5);
        pair.client.looked(pair.now);
        pair.poll_client();
    }
    assert!(pair.now - start < Duration::from_millis(1), "{:?}", pair.now - start);
}
