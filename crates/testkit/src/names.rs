//! A server of names whose answers change from one question to the next, as those of an attacker's own server may.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

/// What a name has at one time.
#[derive(Clone, Debug)]
pub enum Has {
    /// These addresses.
    Addresses(Vec<IpAddr>),
    /// Another name in its place, which may have another one.
    Alias(&'static str),
}

/// Names, and what each has at the first question, the second and so on; the last for ever.
pub type Table = BTreeMap<&'static str, Vec<Has>>;

/// A running server on loopback, over UDP and TCP at one port.
pub struct Names {
    /// Where it answers.
    pub address: SocketAddr,
    said: Arc<Said>,
}

impl Names {
    /// Starts answering; the task ends with the runtime. A name below [`TWIN`] has what the name behind it has, and a count of questions of its own.
    ///
    /// # Errors
    /// When no port could be bound.
    pub async fn start(table: Table) -> io::Result<Self> {
        let mut taken = io::Error::other("no port is free for both");
        for _ in 0..TRIES {
            #[expect(
                clippy::disallowed_methods,
                reason = "an attacker's server in a rehearsal, not a part of the boundary"
            )]
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            let address = socket.local_addr()?;
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    let said = Arc::new(Said { table, asked: Mutex::default() });
                    tokio::spawn(serve(socket, Arc::clone(&said)));
                    tokio::spawn(accept(listener, Arc::clone(&said)));
                    return Ok(Self { address, said });
                }
                Err(error) => taken = error,
            }
        }
        Err(taken)
    }

    /// Every name that somebody asked for.
    #[must_use]
    pub fn asked(&self) -> BTreeSet<String> {
        let asked = self.said.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.keys().map(|(name, _)| name.clone()).collect()
    }
}

/// What is told, and how often it was asked for by either way.
struct Said {
    table: Table,
    asked: Mutex<Asked>,
}

impl Said {
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        answer(&question, &self.table, &mut asked)?.to_vec().ok()
    }
}

/// What stands before a name that is asked for once more by somebody else.
pub const TWIN: &str = "twin.";

async fn serve(socket: UdpSocket, said: Arc<Said>) {
    let mut buffer = vec![0; LONGEST];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        if let Some(bytes) = said.answer(&buffer[..length]) {
            // Who asks and goes away has no answer.
            let _ = socket.send_to(&bytes, from).await;
        }
    }
}

async fn accept(listener: TcpListener, said: Arc<Said>) {
    while let Ok((stream, _)) = listener.accept().await {
        let said = Arc::clone(&said);
        // Whoever breaks off, or says nothing for a while, has no answer.
        tokio::spawn(async move { timeout(PATIENCE, converse(stream, &said)).await });
    }
}

/// One question after the other, each behind its length (RFC 1035, section 4.2.2).
async fn converse(mut stream: TcpStream, said: &Said) -> io::Result<()> {
    loop {
        let mut question = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut question).await?;
        let Some(answer) = said.answer(&question) else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await?;
    }
}

/// How often a name was asked for, for each kind of record.
type Asked = HashMap<(String, RecordType), usize>;

fn answer(question: &Message, table: &Table, asked: &mut Asked) -> Option<Message> {
    let query = question.queries.first()?;
    let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let times = asked.entry((name.clone(), query.query_type())).or_insert(0);
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.add_query(query.clone());
    match table.get(name.trim_start_matches(TWIN)) {
        Some(has) => {
            answer.add_answers(records(query.name(), query.query_type(), has, *times, table));
        }
        None => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    *times += 1;
    Some(answer)
}

fn records(owner: &Name, kind: RecordType, has: &[Has], times: usize, table: &Table) -> Vec<Record> {
    let of = |data: RData| Record::from_rdata(owner.clone(), 0, data);
    match has.get(times).or(has.last()) {
        Some(Has::Addresses(addresses)) => addresses
            .iter()
            .filter_map(|address| match (address, kind) {
                (IpAddr::V4(address), RecordType::A) => Some(of(RData::A(A(*address)))),
                (IpAddr::V6(address), RecordType::AAAA) => Some(of(RData::AAAA(AAAA(*address)))),
                _ => None,
            })
            .collect(),
        Some(Has::Alias(alias)) => {
            let Ok(other) = Name::from_ascii(format!("{alias}.")) else { return Vec::new() };
            let behind = table.get(alias).map(|has| records(&other, kind, has, 0, table)).unwrap_or_default();
            std::iter::once(of(RData::CNAME(CNAME(other.clone())))).chain(behind).collect()
        }
        None => Vec::new(),
    }
}

/// What one datagram holds.
const LONGEST: usize = 4096;
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a port is looked for that is free both ways.
const TRIES: usize = 10;

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;

    fn question(kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii("a.test.").unwrap(), kind));
        message.to_vec().unwrap()
    }

    fn first(answer: &[u8]) -> RData {
        Message::from_vec(answer).unwrap().answers[0].data.clone()
    }

    #[tokio::test]
    async fn a_question_is_answered_alike_over_tcp_and_counts_with_those_over_udp() {
        let has = |last| Has::Addresses(vec![IpAddr::from([127, 0, 0, last])]);
        let names = Names::start(Table::from([("a.test", vec![has(1), has(2), has(3)])])).await.unwrap();
        let asked = question(RecordType::A);
        #[expect(clippy::disallowed_methods, reason = "a test asks over loopback")]
        let packets = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        packets.send_to(&asked, names.address).await.unwrap();
        let mut buffer = vec![0; LONGEST];
        let length = packets.recv(&mut buffer).await.unwrap();
        assert_eq!(first(&buffer[..length]), RData::A(A::new(127, 0, 0, 1)));
        #[expect(clippy::disallowed_methods, reason = "a test asks over loopback")]
        let mut stream = TcpStream::connect(names.address).await.unwrap();
        for last in [2, 3] {
            let length = u16::try_from(asked.len()).unwrap();
            stream.write_all(&[&length.to_be_bytes()[..], &asked].concat()).await.unwrap();
            let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(first(&answer), RData::A(A::new(127, 0, 0, last)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_closed_after_ten_seconds() {
        let names = Names::start(Table::new()).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test asks over loopback")]
        let mut stream = TcpStream::connect(names.address).await.unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(begun.elapsed().as_secs(), 10, "{:?}", begun.elapsed());
    }
}
