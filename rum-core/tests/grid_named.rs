//! Named objects between processes: what one flushed, others see, and an object that was freed is never mistaken for its
//! successor.

mod grid_common;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use grid_common::{
    MIB, PAGE, Turn,
    far::Far,
    local_grid::{VhostGrid, client, join_as_told, play_slave},
    player::{Player, argument, number, role, say, told},
};
use rum_core::grid::{AllocError, Grid, NamedObject, ObjectHash};

const LONGEST: Duration = Duration::from_secs(60);
const SIZE: usize = 3 * MIB + 123;

fn hash(name: &str) -> ObjectHash {
    let mut bytes = [b'.'; 32];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    ObjectHash(bytes)
}

fn far(object: &NamedObject) -> Far {
    Far::of(object.pointer, object.size)
}

fn fill(far: &Far, mark: u64) {
    (0..far.len() - 8).step_by(1000).for_each(|at| far.set_word(at, mark + at as u64));
}

fn holds(far: &Far, mark: u64) -> bool {
    (0..far.len() - 8).step_by(1000).all(|at| far.word(at) == mark + at as u64)
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is later than 1970")
}

fn actor(grid: &VhostGrid, role: &str, mark: u64) -> Player {
    client(role, &grid.machines(), 1, &[("mark", mark.to_string())])
}

#[test]
fn what_one_process_flushed_another_gets() {
    let _turn = Turn::wait();
    let slaves = VhostGrid::start(3, 32 * MIB);
    actor(&slaves, "write", 1000).succeed(LONGEST);
    actor(&slaves, "read", 1000).succeed(LONGEST);
    // Written by another client meanwhile, and read by one that had it open all the time.
    let mut reader = actor(&slaves, "read-twice", 1000);
    reader.hear("first");
    actor(&slaves, "rewrite", 2000).succeed(LONGEST);
    reader.tell("again");
    reader.hear("second");
    reader.succeed(LONGEST);
    actor(&slaves, "read", 2000).succeed(LONGEST);
}

/// Lesson 3: a flush does not end the care for what is written later.
#[test]
fn what_is_written_after_a_flush_is_flushed_by_the_next() {
    let _turn = Turn::wait();
    let slaves = VhostGrid::start(2, 32 * MIB);
    for engine in grid_common::engines() {
        let name = engine.to_string();
        let machines = slaves.machines();
        client("flush-often", &machines, 4, &[("engine", name)]).succeed(LONGEST);
        let grid = slaves.join(MIB);
        let object = grid.get_named(&hash("often"), None).expect("it was made");
        assert!(holds(&far(&object), 9));
        assert!(grid.free_named(&hash("often"), None));
    }
}

/// Lesson 12: the size is checked, and a look-up that finds nothing says so at once.
#[test]
fn sizes_and_missing_names_are_answers() {
    let _turn = Turn::wait();
    let slaves = VhostGrid::start(3, 32 * MIB);
    let (grid, other) = (slaves.join(MIB), slaves.join(MIB));
    let started = Instant::now();
    assert!(grid.get_named(&hash("nothing"), None).is_none());
    assert!(!grid.free_named(&hash("nothing"), None));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let object = grid.alloc_named(&hash("sized"), SIZE, None).expect("room");
    assert!(!object.existed && object.size == SIZE);
    fill(&far(&object), 5);
    grid.flush();
    for size in [1, SIZE - 1, SIZE + 1, 2 * SIZE] {
        let refused = other.alloc_named(&hash("sized"), size, None);
        assert_eq!(refused.map(|object| object.size), Err(AllocError::SizeDiffers { existing: SIZE }));
    }
    let same = other.alloc_named(&hash("sized"), SIZE, None).expect("it exists");
    assert!(same.existed && same.size == SIZE && holds(&far(&same), 5));
    // Its size cannot be changed; freed, it can be made anew with another, and starts as zeros.
    assert!(other.free_named(&hash("sized"), None));
    let anew = other.alloc_named(&hash("sized"), PAGE, None).expect("room");
    assert!(!anew.existed && anew.size == PAGE);
    assert!((0..PAGE).all(|at| far(&anew).byte(at) == 0));
}

#[test]
fn a_named_object_outlives_a_killed_client() {
    let _turn = Turn::wait();
    let slaves = VhostGrid::with_lease(1, 32 * MIB, Duration::from_millis(500));
    let mut writer = actor(&slaves, "write-and-wait", 77);
    writer.hear("flushed");
    writer.kill();
    // Its unnamed memory is free again when its lease has ended.
    let grid = slaves.join(MIB);
    let unnamed = 32 - SIZE.div_ceil(MIB);
    let mut taken = vec![];
    grid_common::wait_for("the dead client's memory", LONGEST, || {
        let layout = std::alloc::Layout::from_size_align(MIB, PAGE).expect("a layout");
        taken.extend(grid.alloc(layout));
        taken.len() == unnamed
    });
    let object = grid.get_named(&hash("object"), None).expect("it is still there");
    assert!(object.existed && object.size == SIZE && holds(&far(&object), 77));
}

/// Who holds a freed object learns it when it asks the slaves: it neither sees nor harms what took its place.
#[test]
fn an_object_freed_by_another_is_not_mistaken_for_its_successor() {
    let _turn = Turn::wait();
    let slaves = VhostGrid::start(1, 32 * MIB);
    let grid = slaves.join(8 * MIB);
    let object = grid.alloc_named(&hash("object"), SIZE, None).expect("room");
    fill(&far(&object), 50);
    grid.flush();
    let mut holder = actor(&slaves, "read-twice", 50);
    holder.hear("first");
    assert!(grid.free_named(&hash("object"), None));
    let anew = grid.alloc_named(&hash("object"), SIZE, None).expect("room");
    assert!(!anew.existed);
    fill(&far(&anew), 60);
    grid.flush();
    holder.tell("read without asking");
    holder.aborted("given to another client or freed by one", LONGEST);
    assert!(holds(&far(&anew), 60));
    // One that asks gets the new one.
    actor(&slaves, "read", 60).succeed(LONGEST);
}

#[test]
fn a_holder_that_asks_again_gets_the_successor() {
    let _turn = Turn::wait();
    let slaves = VhostGrid::start(2, 32 * MIB);
    let (grid, other) = (slaves.join(MIB), slaves.join(MIB));
    let object = grid.alloc_named(&hash("object"), SIZE, None).expect("room");
    fill(&far(&object), 1);
    grid.flush();
    assert!(holds(&far(&other.get_named(&hash("object"), None).expect("it is there")), 1));
    assert!(grid.free_named(&hash("object"), None));
    assert!(other.get_named(&hash("object"), None).is_none());
    let anew = grid.alloc_named(&hash("object"), 2 * SIZE, None).expect("room");
    fill(&far(&anew), 2);
    grid.flush();
    let found = other.get_named(&hash("object"), None).expect("it is there");
    assert!(found.size == 2 * SIZE && holds(&far(&found), 2));
}

#[test]
fn creators_at_the_same_moment_get_the_same_object() {
    const CREATORS: u64 = 4;
    const OBJECTS: usize = 20;
    let _turn = Turn::wait();
    let slaves = VhostGrid::start(3, 64 * MIB);
    let mut creators: Vec<_> = (0..CREATORS).map(|mark| actor(&slaves, "create", mark)).collect();
    creators.iter_mut().for_each(|creator| drop(creator.hear("joined")));
    let start = since_epoch() + Duration::from_millis(100);
    creators.iter_mut().for_each(|creator| creator.tell(&start.as_millis().to_string()));
    let made: Vec<usize> = creators.iter_mut().map(|creator| creator.hear("made").parse().expect("a number")).collect();
    creators.into_iter().for_each(|creator| drop(creator.succeed(LONGEST)));
    println!("made by each: {made:?}");
    assert_eq!(made.iter().sum::<usize>(), OBJECTS, "each object was made once");
    let grid = slaves.join(MIB);
    for object in 0..OBJECTS {
        let found = grid.get_named(&hash(&format!("shared {object}")), None).expect("it was made");
        for mark in 0..CREATORS as usize {
            assert_eq!(far(&found).word(mark * PAGE), mark as u64 + 1, "object {object}: creator {mark}'s page");
        }
    }
}

/// Not a test of its own: the entry of the processes that the tests start.
#[test]
fn play() {
    match role().as_deref() {
        None => {}
        Some("slave") => play_slave(),
        Some("write") => drop(play_write()),
        Some("write-and-wait") => {
            let _grid = play_write();
            say("flushed");
            told();
        }
        Some("read") => play_read(),
        Some("read-twice") => play_read_twice(),
        Some("rewrite") => play_rewrite(),
        Some("flush-often") => play_flush_often(),
        Some("create") => play_create(),
        Some(other) => panic!("no role {other:?} {}", argument("machines")),
    }
}

fn play_write() -> Grid {
    let grid = join_as_told();
    let object = grid.alloc_named(&hash("object"), SIZE, None).expect("room");
    assert!(!object.existed);
    assert!((0..SIZE).step_by(512).all(|at| far(&object).byte(at) == 0), "it starts as zeros");
    fill(&far(&object), number("mark"));
    grid.flush();
    grid
}

fn play_read() {
    let grid = join_as_told();
    let object = grid.get_named(&hash("object"), None).expect("it is there");
    assert!(object.existed && object.size == SIZE);
    assert!(holds(&far(&object), number("mark")));
}

/// Reads the object, and reads it again, having asked for it anew or not.
fn play_read_twice() {
    let grid = join_as_told();
    let object = grid.get_named(&hash("object"), None).expect("it is there");
    assert!(holds(&far(&object), number("mark")));
    say("first");
    if told() == "again" {
        let again = grid.get_named(&hash("object"), None).expect("it is there");
        assert!(holds(&far(&again), number("mark") + 1000));
    } else {
        grid.flush();
        let seen = far(&object).word(0);
        panic!("read {seen} where nothing is");
    }
    say("second");
}

/// Changes a part of each page that it did not write before.
fn play_rewrite() {
    let grid = join_as_told();
    let object = far(&grid.get_named(&hash("object"), None).expect("it is there"));
    assert!(holds(&object, number("mark") - 1000));
    fill(&object, number("mark"));
    grid.flush();
}

fn play_flush_often() {
    let grid = join_as_told();
    let object = far(&grid.alloc_named(&hash("often"), 2 * MIB, None).expect("room"));
    for mark in 1..=8 {
        fill(&object, mark);
        grid.flush();
        assert!(holds(&object, mark));
    }
    fill(&object, 9);
    // Leaving flushes.
}

fn play_create() {
    let grid = join_as_told();
    let mark = number("mark");
    let start = Duration::from_millis(told().parse().expect("milliseconds"));
    let mut made = 0;
    for number in 0..20 {
        while since_epoch() < start + number * Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        let object = grid.alloc_named(&hash(&format!("shared {number}")), 8 * PAGE, None).expect("room");
        made += usize::from(!object.existed);
        far(&object).set_word(mark as usize * PAGE, mark + 1);
    }
    grid.flush();
    say(&format!("made {made}"));
}
