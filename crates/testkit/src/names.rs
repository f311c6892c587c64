//! A server of names whose answers change from one question to the next, as those of an attacker's own server may.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

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

/// A running server on loopback, over UDP.
pub struct Names {
    /// Where it answers.
    pub address: SocketAddr,
}

impl Names {
    /// Starts answering; the task ends with the runtime. A name below [`TWIN`] has what the name behind it has, and a count of questions of its own.
    ///
    /// # Errors
    /// When no port could be bound.
    pub async fn start(table: Table) -> io::Result<Self> {
        #[expect(
            clippy::disallowed_methods,
            reason = "an attacker's server in a rehearsal, not a part of the boundary"
        )]
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        tokio::spawn(serve(socket, table));
        Ok(Self { address })
    }
}

/// What stands before a name that is asked for once more by somebody else.
pub const TWIN: &str = "twin.";

async fn serve(socket: UdpSocket, table: Table) {
    let (mut buffer, mut asked) = (vec![0; 4096], HashMap::new());
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let answer =
            Message::from_vec(&buffer[..length]).ok().and_then(|question| answer(&question, &table, &mut asked));
        if let Some(bytes) = answer.and_then(|answer| answer.to_vec().ok()) {
            // Who asks and goes away has no answer.
            let _ = socket.send_to(&bytes, from).await;
        }
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
