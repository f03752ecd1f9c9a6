//! What goes wrong with slaves, their network, and clients.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    disk::Disk,
    host::Host,
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
    Power,
}

impl World {
    fn mean(&self, fault: Fault) -> Option<Duration> {
        let Weather { crash, pause, partition, cut, death, sleep, hand_over, power, .. } = self.weather;
        match fault {
            Fault::Crash => crash,
            Fault::Pause => pause,
            Fault::Partition => partition,
            Fault::Cut => cut,
            Fault::Death => death,
            Fault::Sleep => sleep,
            Fault::HandOver => hand_over,
            Fault::Power => power,
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
            Fault::Power => self.lose_power(),
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
        if self.hosts[host].process.is_none() {
            return;
        }
        let remembers = |(place, other): (usize, &mut Host)| place != host && other.remembers();
        let others = self.hosts.iter_mut().enumerate().map(remembers).filter(|remembers| *remembers).count();
        let may_forget = others > self.hosts.len() / 2;
        let disk = self.hosts[host].disk.as_ref().map(|disk| {
            let mut after = disk.lock().unwrap().clone();
            after.crash(&mut self.rng);
            if may_forget && self.rng.chance(self.weather.damage) {
                after.damage(&mut self.rng);
                self.damaged += 1;
            } else if may_forget && self.rng.chance(0.1) {
                after = Disk::new(self.hosts.len() as u8, self.weather.disk_latency, self.rng.next());
            }
            after
        });
        let is_remembered = disk.as_ref().is_some_and(Disk::is_whole);
        if may_forget || is_remembered {
            self.end(host, disk, is_remembered);
        }
    }

    /// Ends a process, whose disk is this from then on.
    fn end(&mut self, host: usize, disk: Option<Disk>, is_remembered: bool) {
        self.crashes += 1;
        let at = self.now + self.rng.around(self.weather.down);
        let host_at = &mut self.hosts[host];
        host_at.process = None;
        host_at.is_remembered = is_remembered;
        // What the process still gives its lanes is lost with the disk that it had.
        host_at.disk = disk.map(|disk| Arc::new(Mutex::new(disk)));
        self.schedule(at, Event::Restart { host });
    }

    /// Ends all processes at once, if all that they knew is on their disks.
    fn lose_power(&mut self) {
        let mut after = Vec::new();
        for host in &self.hosts {
            let Some(disk) = &host.disk else { return };
            let mut disk = disk.lock().unwrap().clone();
            disk.crash(&mut self.rng);
            if !disk.is_whole() {
                return;
            }
            after.push(disk);
        }
        self.power_losses += 1;
        for (host, disk) in after.into_iter().enumerate() {
            if self.hosts[host].process.is_some() {
                self.end(host, Some(disk), true);
            }
        }
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
