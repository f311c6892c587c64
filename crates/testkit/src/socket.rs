//! A careless WebSocket upstream (RFC 6455): it lets anybody in, and answers each message with `collected`.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Agrees to the handshake and talks until the other side ends it.
pub(crate) async fn accept(request: Request) -> Response {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| key.as_bytes().to_vec()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            // Whoever breaks off has nothing left to hear.
            let _ended = talk(TokioIo::new(upgraded)).await;
        }
    });
    let agreed = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, proof(&key))
        .body(Body::empty());
    agreed.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<()> {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await?;
        let length = match head[1] & 0x7f {
            126 => usize::from(stream.read_u16().await?),
            127 => return Ok(()),
            short => usize::from(short),
        };
        // The mask comes first; what is said does not matter.
        let mut said = vec![0; length + 4];
        stream.read_exact(&mut said).await?;
        match head[0] & 0x0f {
            TEXT | BINARY => stream.write_all(&[&[0x80 | TEXT, ANSWER.len() as u8][..], ANSWER].concat()).await?,
            CLOSE => return stream.write_all(&[0x80 | CLOSE, 0]).await,
            _ => {}
        }
        stream.flush().await?;
    }
}

/// What proves that the key was understood (section 4.2.2).
fn proof(key: &[u8]) -> String {
    let whole = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    STANDARD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &whole))
}

const ANSWER: &[u8] = b"collected";
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
