//! Audit, custody and egress as the worker starts them, and a session whose explicit proxy listens on loopback. No sandbox is around the client: its
//! packet rules would be in no other way's figures.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use postern_audit::{Client as Audit, Started};
use postern_custody::CallerKind;
use postern_egress::client::{Client, Configuration, Network, OpenSession, SessionPlaceholder};
use postern_exec::WireBytes;
use postern_exec::role::{Child, Starter};
use postern_policy::document::DocumentText;
use postern_policy::{Document, Zones};

use crate::spent::Processes;
use crate::upstream::Upstream;
use crate::ways::Way;
use crate::{HOST, Outcome, SECRET};

/// The processes, and the session's way out.
pub(crate) struct Perimeter {
    sessions: Vec<Session>,
    server: SocketAddr,
    children: [Child; 3],
    _clients: (Audit, postern_custody::Client, Client),
}

/// One open session.
struct Session {
    zone: &'static str,
    proxy: SocketAddr,
    ca_pem: String,
    placeholder: String,
}

/// The zones that are measured, by name.
const ZONES: [(&str, &str); 2] = [("ours", ""), ("ours-disk", "audit = \"disk\"")];

impl Perimeter {
    pub(crate) async fn start(starter: &Starter, directory: &Path, upstream: &Upstream) -> Outcome<Self> {
        let document = document(upstream);
        let environments = BTreeMap::from([("default".to_owned(), "env_bench".to_owned())]);
        let (audit_child, audit, started) = postern_audit::start(starter, &directory.join("audit")).await?;
        if let Started::Refused { reason } = started {
            return Err(reason.into());
        }
        let for_custody = attached(&audit, "custody").await?;
        let configuration = postern_custody::Configuration {
            document: document.clone(),
            environments: environments.clone(),
            directory: directory.join("custody"),
            snapshot: BTreeMap::from([("BENCH_KEY".to_owned(), WireBytes::new(SECRET.as_bytes().to_vec()))]),
        };
        let (custody_child, custody, ready) = postern_custody::start(starter, &configuration, &for_custody).await?;
        if !ready.problems.is_empty() {
            return Err(ready.problems.join("; ").into());
        }
        let (ours, for_egress) = UnixStream::pair()?;
        custody.attach(CallerKind::Egress, ours.into()).await?;
        let configuration =
            Configuration { document: document.clone(), environments: environments.clone(), names: None };
        let audit_for_egress = attached(&audit, "egress").await?;
        let (egress_child, egress) =
            postern_egress::client::start(starter, &configuration, &audit_for_egress, &OwnedFd::from(for_egress))
                .await?;
        let document = Document::from_text(document).map_err(|errors| format!("{errors:?}"))?;
        let zones = Zones::load(&document, &environments).map_err(|errors| format!("{errors:?}"))?;
        let mut sessions = Vec::new();
        for (zone, _) in ZONES {
            let digest = zones.named(zone).ok_or("the zone is not there")?.digest().to_owned();
            sessions.push(open(zone, digest, &custody, &egress).await?);
        }
        Ok(Self {
            sessions,
            server: upstream.place.address,
            children: [audit_child, custody_child, egress_child],
            _clients: (audit, custody, egress),
        })
    }

    /// Its processes, by their roles.
    pub(crate) fn processes(&self) -> Processes {
        self.children.iter().map(|child| (child.role(), vec![child.id()])).collect()
    }

    /// One way for each zone.
    pub(crate) fn ways(&self) -> Outcome<Vec<Way>> {
        self.sessions
            .iter()
            .map(|one| Way::through(one.zone, one.proxy, self.server, &one.ca_pem, &one.placeholder))
            .collect()
    }
}

async fn attached(audit: &Audit, caller: &str) -> Outcome<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    audit.attach(caller, ours.into()).await?;
    Ok(theirs.into())
}

async fn open(
    zone: &'static str,
    digest: String,
    custody: &postern_custody::Client,
    egress: &Client,
) -> Outcome<Session> {
    let (session, agent) = (format!("sesn_{zone}"), Some("agent_bench@1".to_owned()));
    let question = postern_custody::OpenSession {
        session: session.clone(),
        agent: agent.clone(),
        zone: zone.to_owned(),
        digest: digest.clone(),
        variables: Vec::new(),
    };
    let issued = custody.open(question).await?.issued.pop().ok_or("custody issued no placeholder")?;
    let placeholder = issued.placeholder.as_str().to_owned();
    let placeholders = vec![SessionPlaceholder { credential: issued.credential, placeholder: placeholder.clone() }];
    let question = OpenSession {
        session: session.clone(),
        agent,
        zone_name: zone.to_owned(),
        digest,
        placeholders,
        repositories: Vec::new(),
    };
    let opened = egress.open(question).await?;
    egress.current_tool_use(&session, Some("sevt_bench")).await?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let proxy = listener.local_addr()?;
    let network = Network {
        redirect_v4: None,
        redirect_v6: None,
        dns_udp_v4: None,
        dns_udp_v6: None,
        dns_tcp_v4: None,
        dns_tcp_v6: None,
        proxy: Some(listener.into()),
        refused_udp: None,
    };
    egress.attach(&session, network).await?;
    Ok(Session { zone, proxy, ca_pem: opened.ca_certificate_pem, placeholder })
}

fn document(upstream: &Upstream) -> DocumentText {
    let address = upstream.place.address;
    let zones = ZONES.map(|(name, more)| {
        let agent = name.replace('-', "");
        format!(
            r#"
[zone.{name}]
environment = "default"
agents = ["agent_{agent}"]
{more}
[[zone.{name}.credential]]
name = "key"
source = "env:BENCH_KEY"
env = "BENCH_KEY"
inject = [{{ header = "authorization" }}]
[[zone.{name}.egress]]
host = "{HOST}"
scheme = "https"
ports = [{port}]
methods = ["GET", "POST"]
paths = ["/v1/**"]
credential = "key"
connect = "{address}"
addresses = ["127.0.0.0/8"]
ca_file = "ca.pem"
"#,
            port = address.port()
        )
    });
    DocumentText {
        file: "postern.toml".to_owned(),
        text: format!("config = 1\n{}", zones.concat()),
        attachments: BTreeMap::from([("ca.pem".to_owned(), upstream.place.ca_pem.clone())]),
    }
}
