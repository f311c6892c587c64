use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use super::*;

/// Two ends; a read that would hang fails the test instead.
fn pair() -> (Channel, Channel) {
    let (ours, theirs) = Channel::pair().unwrap();
    for end in [ours.as_fd(), theirs.as_fd()] {
        rustix::net::sockopt::set_socket_timeout(
            end,
            rustix::net::sockopt::Timeout::Recv,
            Some(Duration::from_secs(20)),
        )
        .unwrap();
    }
    (ours, Channel::new(theirs))
}

#[test]
fn a_message_arrives_with_its_descriptors_in_order_and_close_on_exec() {
    let (ours, theirs) = pair();
    let (first_read, first_write) = rustix::pipe::pipe().unwrap();
    let (second_read, second_write) = rustix::pipe::pipe().unwrap();
    ours.send(&"two pipes", &[first_write.as_fd(), second_write.as_fd()]).unwrap();
    drop((first_write, second_write));
    let (text, descriptors): (String, _) = theirs.receive(100).unwrap().unwrap();
    assert_eq!((text.as_str(), descriptors.len()), ("two pipes", 2));
    for (index, descriptor) in descriptors.into_iter().enumerate() {
        assert!(rustix::io::fcntl_getfd(&descriptor).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        File::from(descriptor).write_all(&[b'1' + index as u8]).unwrap();
    }
    let (mut one, mut two) = (String::new(), String::new());
    File::from(first_read).read_to_string(&mut one).unwrap();
    File::from(second_read).read_to_string(&mut two).unwrap();
    assert_eq!((one.as_str(), two.as_str()), ("1", "2"));
}

#[test]
fn descriptors_stay_with_their_message_among_others_without() {
    let (ours, theirs) = pair();
    let (pipe, _write) = rustix::pipe::pipe().unwrap();
    ours.send(&1, &[]).unwrap();
    ours.send(&2, &[pipe.as_fd()]).unwrap();
    ours.send(&3, &[]).unwrap();
    let counts: Vec<(u32, usize)> =
        (0..3).map(|_| theirs.receive::<u32>(100).unwrap().unwrap()).map(|(n, fds)| (n, fds.len())).collect();
    assert_eq!(counts, [(1, 0), (2, 1), (3, 0)]);
}

#[test]
fn closing_between_messages_is_the_end_and_within_one_an_error() {
    let (ours, theirs) = pair();
    ours.send(&1, &[]).unwrap();
    drop(ours);
    assert!(theirs.receive::<u32>(100).unwrap().is_some());
    assert!(theirs.receive::<u32>(100).unwrap().is_none());

    let (ours, theirs) = pair();
    let mut socket = File::from(ours.into_socket());
    socket.write_all(b"\x0a\0\0\0half").unwrap();
    drop(socket);
    assert!(matches!(theirs.receive::<u32>(100), Err(ChannelError::Truncated { missing: 6 })));
}

#[test]
fn a_message_larger_than_any_socket_buffer_crosses_whole() {
    let (ours, theirs) = pair();
    let large = "ä".repeat(3 << 20);
    let copy = large.clone();
    let sender = std::thread::spawn(move || ours.send(&copy, &[]));
    let (received, _): (String, _) = theirs.receive(16 << 20).unwrap().unwrap();
    assert!(received == large);
    sender.join().unwrap().unwrap();
}

#[test]
fn sending_to_a_peer_that_is_gone_is_an_error_and_stays_one() {
    let (ours, theirs) = pair();
    drop(theirs);
    assert!(matches!(ours.send(&1, &[]), Err(ChannelError::Io(_))));
    assert!(matches!(ours.send(&1, &[]), Err(ChannelError::Broken)));
}

#[test]
fn threads_that_send_at_once_do_not_mix_their_frames() {
    let (ours, theirs) = pair();
    let sender = std::sync::Arc::new(ours);
    let threads: Vec<_> = (0..4u32)
        .map(|thread| {
            let sender = std::sync::Arc::clone(&sender);
            std::thread::spawn(move || {
                (0..50u32).for_each(|n| sender.send(&vec![thread * 1000 + n; 1000], &[]).unwrap());
            })
        })
        .collect();
    for _ in 0..200 {
        let (numbers, _): (Vec<u32>, _) = theirs.receive(1 << 20).unwrap().unwrap();
        assert!(numbers.len() == 1000 && numbers.iter().all(|n| *n == numbers[0]));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
