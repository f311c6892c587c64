//! Where the kernel cannot refuse descriptors on a tool channel: two threads that carry its bytes, and nothing but bytes. Whoever receives a socket, or
//! closes the channel in which one still lies, closes the socket, and that may take as long as the sandbox likes. Here it takes no thread that others need.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

/// Another end of the channel, over which bytes alone come. The threads end with either end.
pub(crate) fn of(channel: OwnedFd) -> io::Result<OwnedFd> {
    let (ours, handed) = UnixStream::pair()?;
    let (channel, ours) = (Arc::new(UnixStream::from(channel)), Arc::new(ours));
    carry(Arc::clone(&channel), Arc::clone(&ours))?;
    carry(ours, channel)?;
    Ok(handed.into())
}

fn carry(from: Arc<UnixStream>, to: Arc<UnixStream>) -> io::Result<()> {
    let carrying = move || {
        // However it ends, the other side learns of it.
        let _ended = copy(&from, &to);
        let _gone = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
    };
    thread::Builder::new().name("tool-channel".to_owned()).spawn(carrying).map(drop)
}

/// Reads plain bytes: the kernel gives no descriptor to whoever asks for none.
fn copy(mut from: &UnixStream, mut to: &UnixStream) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&piece[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

const PIECE: usize = 64 << 10;
