//! What goes wrong with slaves, their network, and clients.

use std::time::Duration;

use crate::{
    host::{Host, Process},
    weather::Weather,
    world::{CLIENTS, Event, World},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Crash,
    Pause,
    Partition,
    Cut,
    Death,
    Sleep,
    HandOver,
}

impl World {
    fn mean(&self, fault: Fault) -> Option<Duration> {
        let Weather { crash, pause, partition, cut, death, sleep, hand_over, .. } = self.weather;
        match fault {
            Fault::Crash => crash,
            Fault::Pause => pause,
            Fault::Partition => partition,
            Fault::Cut => cut,
            Fault::Death => death,
            Fault::Sleep => sleep,
            Fault::HandOver => hand_over,
        }
    }

    pub fn schedule_fault(&mut self, fault: Fault) {
        if let Some(mean) = self.mean(fault) {
            let at = self.now + self.rng.around(mean);
            self.schedule(at, Event::Fault(fault));
        }
    }

    pub fn on_fault(&mut self, fault: Fault) {
        if self.mean(fault).is_none() {
            return;
        }
        let (now, weather) = (self.now, self.weather);
        let (host, slot) = (self.rng.below(self.hosts.len()), self.rng.below(CLIENTS));
        match fault {
            Fault::Crash => self.crash(host),
            Fault::Pause => {
                let until = now + self.rng.around(weather.paused);
                if let Some(process) = &mut self.hosts[host].process {
                    process.paused_until = until;
                }
            }
            Fault::Partition => self.part(host),
            Fault::Cut => {
                self.cut.clear();
                for host in 0..self.hosts.len() {
                    if self.rng.chance(0.4) {
                        self.cut.insert((slot, host));
                    }
                }
            }
            Fault::Death => self.clients[slot].is_gone = true,
            Fault::Sleep => self.clients[slot].asleep_until = now + self.rng.around(weather.slept),
            Fault::HandOver => {
                if let Some(process) = &mut self.hosts[host].process
                    && process.paused_until <= now
                {
                    let clock = process.clock(now);
                    process.group.hand_over(clock);
                }
            }
        }
        self.schedule_fault(fault);
    }

    /// Ends a process, unless more than a minority would have forgotten what it knew.
    fn crash(&mut self, host: usize) {
        let remember = |(place, other): (usize, &mut Host)| {
            place != host && other.process.as_mut().is_some_and(Process::remembers)
        };
        let others = self.hosts.iter_mut().enumerate().map(remember).filter(|remembers| *remembers).count();
        if self.hosts[host].process.is_none() || others <= self.hosts.len() / 2 {
            return;
        }
        self.crashes += 1;
        self.hosts[host].process = None;
        let at = self.now + self.rng.around(self.weather.down);
        self.schedule(at, Event::Restart { host });
    }

    /// Draws another partition, or none.
    fn part(&mut self, host: usize) {
        self.unreached.clear();
        let hosts = self.hosts.len();
        let kind = self.rng.below(5);
        let one_way = self.rng.chance(0.5);
        let sides: Vec<bool> = (0..hosts).map(|_| self.rng.chance(0.5)).collect();
        for (from, to) in (0..hosts).flat_map(|from| (0..hosts).map(move |to| (from, to))) {
            let is_cut = match kind {
                0 => false,
                1 => from == host || to == host,
                2 => {
                    if one_way {
                        from == host
                    } else {
                        to == host
                    }
                }
                3 => sides[from] != sides[to],
                _ => self.rng.chance(0.3),
            };
            if is_cut && from != to {
                self.unreached.insert((from, to));
            }
        }
    }
}
