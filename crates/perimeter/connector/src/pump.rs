//! Bytes both ways between a carried stream and the gateway's socket: bounded buffers, half-close, and an end for both when one side is lost.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

use crate::limits;

/// How one direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The source ended in order, and the sink knows.
    Whole,
    /// The sink takes no more.
    Unwanted,
    /// The source was lost.
    Lost,
}

/// Copies until both directions are done. The gateway may stop reading and still answer: what it sends then arrives. When the carried stream is
/// lost in either direction, nobody is left to answer, so both end.
pub(crate) async fn pump<C, G>(carried: C, gateway: G)
where
    C: AsyncRead + AsyncWrite,
    G: AsyncRead + AsyncWrite,
{
    let (from_edge, to_edge) = split(carried);
    let (from_gateway, to_gateway) = split(gateway);
    let mut inward = std::pin::pin!(copy(from_edge, to_gateway));
    let mut outward = std::pin::pin!(copy(from_gateway, to_edge));
    tokio::select! {
        ended = &mut inward => if ended != Ended::Lost {
            outward.await;
        },
        ended = &mut outward => if ended == Ended::Whole {
            inward.await;
        },
    }
}

async fn copy<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(mut from: R, mut to: W) -> Ended {
    let mut buffer = vec![0; limits::BUFFER_BYTES];
    loop {
        match from.read(&mut buffer).await {
            Err(_) => return Ended::Lost,
            Ok(0) => return if to.shutdown().await.is_ok() { Ended::Whole } else { Ended::Unwanted },
            Ok(count) => {
                if to.write_all(&buffer[..count]).await.is_err() {
                    return Ended::Unwanted;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn pumped() -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<()>) {
        let (edge, carried) = duplex(64);
        let (gateway, socket) = duplex(64);
        (edge, gateway, tokio::spawn(pump(carried, socket)))
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself() {
        let (mut edge, mut gateway, pump) = pumped();
        edge.write_all(b"question").await.unwrap();
        edge.shutdown().await.unwrap();
        let mut heard = Vec::new();
        gateway.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"question");
        gateway.write_all(b"answer").await.unwrap();
        drop(gateway);
        let mut answer = Vec::new();
        edge.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        pump.await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_arrives_though_the_rest_of_the_question_is_unwanted() {
        let (mut edge, mut gateway, pump) = pumped();
        // More than the edge's buffer takes, so that it is still on its way when the question fails.
        gateway.write_all(&[7; 150]).await.unwrap();
        drop(gateway);
        // More than the buffer holds, so that it ends only when the pump has read some, which nobody wants.
        edge.write_all(&[0; 100]).await.unwrap();
        let mut answer = Vec::new();
        edge.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, [7; 150]);
        drop(edge);
        pump.await.unwrap();
    }

    #[tokio::test]
    async fn when_the_edges_side_is_gone_the_gateway_hears_an_end() {
        let (edge, mut gateway, pump) = pumped();
        drop(edge);
        assert_eq!(gateway.read(&mut [0; 8]).await.unwrap(), 0);
        drop(gateway);
        pump.await.unwrap();
    }
}
