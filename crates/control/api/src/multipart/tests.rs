use super::*;

const CHUNK: usize = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(20);

/// A form of these bytes, in chunks, and how many bytes of it were read.
fn form(bytes: Vec<u8>) -> (Form, Arc<AtomicUsize>) {
    let counted = Arc::new(AtomicUsize::new(0));
    let chunks: Vec<Bytes> = bytes.chunks(CHUNK).map(Bytes::copy_from_slice).collect();
    let read_too = Arc::clone(&counted);
    let body = stream::iter(chunks).inspect(move |chunk| {
        read_too.fetch_add(chunk.len(), Ordering::Relaxed);
    });
    let headers = [(CONTENT_TYPE, "multipart/form-data; boundary=x".parse().unwrap())].into_iter().collect();
    let body = Body::from_stream(body.map(Ok::<_, std::io::Error>));
    (Form::read(&headers, body, PATIENCE).unwrap(), counted)
}

fn head(length: usize) -> Vec<u8> {
    let mut head = b"--x\r\ncontent-disposition: form-data; name=\"a\"\r\nx-long: ".to_vec();
    head.resize(length - 4, b'h');
    [&head, &b"\r\n\r\n"[..]].concat()
}

#[tokio::test]
async fn what_comes_before_a_part_is_held_up_to_a_bound() {
    let endless = vec![b'p'; 1024 * 1024];
    let part = [head(100), vec![7; 300_000], b"\r\n".to_vec()].concat();
    let unended = [&b"--x\r\nx-long: "[..], &endless].concat();
    for (what, form_bytes, before, parts) in [
        ("a preamble", endless.clone(), 0, 0),
        ("a head", unended.clone(), 0, 0),
        ("the head of a second part", [part.clone(), unended].concat(), part.len(), 1),
    ] {
        let (mut form, read) = form(form_bytes);
        for _ in 0..parts {
            let mut part = form.next().await.unwrap().unwrap();
            let mut size = 0;
            while let Some(bytes) = part.bytes().await.unwrap() {
                size += bytes.len();
            }
            assert_eq!(size, 300_000, "a part is as long as it is");
        }
        let refused = form.next().await.err().unwrap();
        assert_eq!((refused.status(), refused.error_code), (400, Some("form_head_too_large")), "{what}: {refused}");
        let held = read.load(Ordering::Relaxed) - before;
        assert!(held <= MAX_BETWEEN + 2 * CHUNK, "{what}: {held} bytes were read");
    }
}

#[tokio::test]
async fn a_long_head_is_none_too_long_however_fast_what_follows_arrives() {
    let body = [head(MAX_BETWEEN - 100), vec![7; 1024 * 1024], b"\r\n".to_vec(), head(MAX_BETWEEN - 100)].concat();
    let (mut form, _) = form([&body[..], b"\r\n--x--\r\n"].concat());
    for size in [1024 * 1024, 0] {
        let mut part = form.next().await.unwrap().unwrap();
        let mut read = 0;
        while let Some(bytes) = part.bytes().await.unwrap() {
            read += bytes.len();
        }
        assert_eq!(read, size);
    }
    assert!(form.next().await.unwrap().is_none());
}
