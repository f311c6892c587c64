//! Names asked of one server (RFC 1035, over UDP) instead of the operating system, for a run that brings a server of its own; no configuration names one.
//! Takes addresses of the name that was asked for, or of what the answer calls it otherwise, and asks nobody else.

use std::io;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::UdpSocket;

use crate::dial::{LookingUp, Resolver};

/// A server of names.
#[derive(Debug, Clone, Copy)]
pub struct Asking(SocketAddr);

impl Asking {
    /// The server at this address.
    #[must_use]
    pub fn of(server: SocketAddr) -> Self {
        Self(server)
    }

    async fn addresses(self, host: &str, kind: RecordType) -> io::Result<Vec<IpAddr>> {
        let mut name = Name::from_ascii(host).map_err(io::Error::other)?;
        name.set_fqdn(true);
        let mut question = Message::query();
        question.add_query(Query::query(name.clone(), kind));
        let answer = self.answer(&question).await?;
        match answer.metadata.response_code {
            ResponseCode::NoError => Ok(found(&answer, name)),
            ResponseCode::NXDomain => Ok(Vec::new()),
            code => Err(io::Error::other(format!("the server of names answered {code}"))),
        }
    }

    /// Its answer. Waits as long as whoever asks; what does not answer this question is passed over.
    async fn answer(self, question: &Message) -> io::Result<Message> {
        let socket = self.socket()?;
        socket.send(&question.to_vec().map_err(io::Error::other)?).await?;
        let mut bytes = vec![0; LONGEST_ANSWER];
        loop {
            let length = socket.recv(&mut bytes).await?;
            let answers = |answer: &Message| {
                answer.metadata.message_type == MessageType::Response
                    && answer.metadata.id == question.metadata.id
                    && answer.queries == question.queries
            };
            if let Some(answer) = Message::from_vec(&bytes[..length]).ok().filter(answers) {
                return Ok(answer);
            }
        }
    }
}

impl Asking {
    /// A socket that hears nobody but the server. It binds nothing: a role that asks for addresses may not.
    fn socket(self) -> io::Result<UdpSocket> {
        let family = if self.0.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        rustix::net::connect(&socket, &self.0)?;
        UdpSocket::from_std(socket.into())
    }
}

impl Resolver for Asking {
    fn look_up<'a>(&'a self, host: &'a str, _port: u16) -> LookingUp<'a> {
        Box::pin(async move {
            let (four, six) = tokio::join!(self.addresses(host, RecordType::A), self.addresses(host, RecordType::AAAA));
            Ok(four?.into_iter().chain(six?).collect())
        })
    }
}

/// The addresses of a name, by way of the names that it stands for.
fn found(answer: &Message, mut name: Name) -> Vec<IpAddr> {
    for _ in 0..MOST_ALIASES {
        let alias = answer.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(alias) if record.name == name => Some(alias.0.clone()),
            _ => None,
        });
        match alias {
            Some(alias) => name = alias,
            None => break,
        }
    }
    let address = |data: &RData| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    answer.answers.iter().filter(|record| record.name == name).filter_map(|record| address(&record.data)).collect()
}

/// What one datagram holds.
const LONGEST_ANSWER: usize = 4096;
/// A chain of names longer than this leads nowhere.
const MOST_ALIASES: usize = 8;

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, CNAME};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_str(text).unwrap()
    }

    fn address(owner: &str, last: u8) -> Record {
        Record::from_rdata(name(owner), 0, RData::A(A::new(127, 0, 0, last)))
    }

    fn alias(owner: &str, of: &str) -> Record {
        Record::from_rdata(name(owner), 0, RData::CNAME(CNAME(name(of))))
    }

    #[test]
    fn addresses_are_those_of_the_name_by_its_aliases_and_no_others() {
        let mut answer = Message::response(1, OpCode::Query);
        answer.add_answers([
            alias("a.test.", "b.test."),
            address("c.test.", 3),
            address("x.test.", 9),
            alias("b.test.", "c.test."),
        ]);
        assert_eq!(found(&answer, name("a.test.")), [IpAddr::from([127, 0, 0, 3])]);
        assert_eq!(found(&answer, name("x.test.")), [IpAddr::from([127, 0, 0, 9])]);
        assert_eq!(found(&answer, name("y.test.")), [] as [IpAddr; 0]);
    }

    #[test]
    fn a_circle_of_aliases_leads_nowhere() {
        let mut answer = Message::response(1, OpCode::Query);
        answer.add_answers([alias("a.test.", "b.test."), alias("b.test.", "a.test.")]);
        assert_eq!(found(&answer, name("a.test.")), [] as [IpAddr; 0]);
    }

    #[test]
    fn so_many_aliases_are_followed() {
        for (aliases, expected) in [(MOST_ALIASES, vec![IpAddr::from([127, 0, 0, 3])]), (MOST_ALIASES + 1, vec![])] {
            let mut answer = Message::response(1, OpCode::Query);
            let named = |number: usize| format!("a{number}.test.");
            answer.add_answers((0..aliases).map(|number| alias(&named(number), &named(number + 1))));
            answer.add_answers([address(&named(aliases), 3)]);
            assert_eq!(found(&answer, name("a0.test.")), expected, "{aliases}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_is_passed_over() {
        #[expect(clippy::disallowed_methods, reason = "a test plays the server of names")]
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let asking = Asking::of(server.local_addr().unwrap());
        let answering = async {
            let mut bytes = [0; 512];
            let (length, from) = server.recv_from(&mut bytes).await.unwrap();
            let question = Message::from_vec(&bytes[..length]).unwrap();
            for (addresses, last) in [(300, 1), (200, 2)] {
                let mut answer = Message::response(question.metadata.id, OpCode::Query);
                answer.add_query(question.queries[0].clone());
                answer.add_answers((0..addresses).map(|_| address("a.test.", last)));
                let bytes = answer.to_vec().unwrap();
                assert_eq!(bytes.len() > 4096, last == 1, "{}", bytes.len());
                server.send_to(&bytes, from).await.unwrap();
            }
        };
        let (found, ()) = tokio::join!(asking.addresses("a.test", RecordType::A), answering);
        assert_eq!(found.unwrap(), vec![IpAddr::from([127, 0, 0, 2]); 200]);
    }
}
