use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use super::*;

/// This very test program.
fn own() -> Vec<u8> {
    std::fs::read("/proc/self/exe").unwrap()
}

/// Started by hand it shows where it is; started from the place below, it is there.
#[test]
fn a_program_that_shows_where_it_is_and_unwinds() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    println!("first: {}", maps.lines().next().unwrap_or_default());
    let unwound = std::panic::catch_unwind(|| panic!("on purpose"));
    assert!(unwound.is_err());
    let own_thread = std::thread::spawn(|| "a thread".to_owned()).join();
    assert_eq!(own_thread.unwrap(), "a thread");
}

#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
#[test]
fn a_placed_program_runs_at_its_place_and_has_nothing_left_to_be_filled_in() {
    let base = place(0x0123_4567);
    let image = placed(&own(), base).expect("this program is of the kind that is understood");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("placed");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(&path).unwrap();
    std::io::Write::write_all(&mut file, &image).unwrap();
    drop(file);
    let test = "image::placed::tests::a_program_that_shows_where_it_is_and_unwinds";
    #[expect(clippy::disallowed_methods, reason = "the program under test is this one")]
    let output = Command::new(&path).args(["--exact", test, "--nocapture"]).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains(&format!("first: {base:x}-")), "{printed}");
    let moved = Program { bytes: image, base: 0 };
    let layout = Layout::read(&moved);
    assert!(layout.is_none(), "a program with a place of its own is not moved again");
}

#[test]
fn what_is_not_understood_is_left_alone_and_nothing_panics() {
    let own = own();
    for length in (0..4096).step_by(7).chain([own.len() / 2, own.len() - 1]) {
        let _whatever = placed(&own[..length], place(1));
    }
    assert!(placed(b"#!/bin/sh\n", place(1)).is_none());
    let head = own[..4096.min(own.len())].to_vec();
    for at in 0..1024.min(head.len()) {
        let mut broken = head.clone();
        broken[at] ^= 0xFF;
        assert!(placed(&broken, place(1)).is_none(), "{at}: the rest of the file is missing");
    }
}

#[test]
fn places_are_pages_of_the_lower_half() {
    for random in [0, 1, u64::MAX, 0xFFF] {
        let place = place(random);
        assert_eq!(place % 4096, 0);
        assert!((0x5555_5555_4000..0x5755_5555_4000).contains(&place), "{place:x}");
    }
}
