use std::os::fd::AsFd;
use std::time::Duration;

use super::*;
use crate::Channel as Blocking;

#[tokio::test]
async fn both_kinds_of_channel_speak_the_same_frames() {
    let (mut ours, theirs) = Channel::pair().unwrap();
    let theirs = Blocking::new(theirs);
    let (pipe, _write) = rustix::pipe::pipe().unwrap();
    ours.send(&"hello", &[pipe.as_fd()]).await.unwrap();
    let echo = std::thread::spawn(move || {
        let (text, descriptors): (String, _) = theirs.receive(100).unwrap().unwrap();
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        theirs.send(&text, &borrowed).unwrap();
    });
    let (text, descriptors): (String, _) = ours.receive(100).await.unwrap().unwrap();
    assert_eq!((text.as_str(), descriptors.len()), ("hello", 1));
    echo.join().unwrap();
    assert!(ours.receive::<String>(100).await.unwrap().is_none());
}

#[tokio::test]
async fn receiving_may_be_cancelled_in_the_middle_of_a_frame() {
    let (ours, theirs) = Channel::pair().unwrap();
    let (_sender, mut receiver) = ours.split();
    let bytes = frame::encode(&"cancelled", 0).unwrap();
    let mut peer = std::os::unix::net::UnixStream::from(theirs);
    for piece in bytes.chunks(3) {
        let nothing_yet = tokio::time::timeout(Duration::from_millis(5), receiver.receive::<String>(100)).await;
        assert!(nothing_yet.is_err());
        std::io::Write::write_all(&mut peer, piece).unwrap();
    }
    let (text, _) = receiver.receive::<String>(100).await.unwrap().unwrap();
    assert_eq!(text, "cancelled");
}

#[tokio::test]
async fn a_send_cut_short_breaks_the_sender() {
    let (mut ours, _theirs) = Channel::pair().unwrap();
    let large = "x".repeat(8 << 20);
    let stuck = tokio::time::timeout(Duration::from_millis(50), ours.send(&large, &[])).await;
    assert!(stuck.is_err(), "nobody reads, so this cannot finish");
    assert!(matches!(ours.send(&1, &[]).await, Err(ChannelError::Broken)));
}

#[tokio::test]
async fn the_peer_learns_of_a_dropped_sender_while_the_receiver_lives() {
    let (ours, theirs) = Channel::pair().unwrap();
    let (sender, _receiver) = ours.split();
    drop(sender);
    let ended = tokio::task::spawn_blocking(move || Blocking::new(theirs).receive::<u32>(100)).await.unwrap();
    assert!(ended.unwrap().is_none());
}
