//! The floor: nginx, which ends TLS and begins it again over kept connections, and neither decides, replaces, scrubs nor records anything.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::upstream::Upstream;
use crate::ways::Way;
use crate::{HOST, Outcome};

/// The running nginx; ended when dropped.
pub(crate) struct Nginx {
    process: Child,
    address: SocketAddr,
}

impl Nginx {
    #[expect(clippy::disallowed_methods, reason = "a peer to compare with, started by a measurement, on loopback")]
    pub(crate) async fn start(program: &Path, directory: &Path, upstream: &Upstream) -> Outcome<Self> {
        let directory = directory.join("nginx");
        std::fs::create_dir_all(&directory)?;
        let place = &upstream.place;
        for (name, text) in [("ca.pem", &place.ca_pem), ("leaf.pem", &place.leaf_pem), ("key.pem", &place.key_pem)] {
            std::fs::write(directory.join(name), text)?;
        }
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let configuration = directory.join("nginx.conf");
        std::fs::write(&configuration, configured(address, place.address))?;
        let log = std::fs::File::create(directory.join("log"))?;
        let mut command = Command::new(program);
        command.arg("-p").arg(&directory).arg("-c").arg(&configuration).args(["-e", "errors"]);
        let process = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut nginx = Self { process, address };
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).await.is_err() {
            if Instant::now() > until || nginx.process.try_wait()?.is_some() {
                return Err(std::fs::read_to_string(directory.join("log"))?.into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(nginx)
    }

    /// Its client has the secret.
    pub(crate) fn way(&self, upstream: &Upstream) -> Outcome<Way> {
        Way::to("nginx", self.address, &upstream.place.ca_pem)
    }

    /// Its processes that serve.
    pub(crate) fn workers(&self) -> Outcome<Vec<u32>> {
        let main = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children"))?;
        Ok(children.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Asked and not killed: it takes its workers with it.
        if let Some(main) = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(main, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

/// As fast as it goes: nothing is logged, no body is kept in files, and every connection is kept.
fn configured(listen: SocketAddr, server: SocketAddr) -> String {
    format!(
        "
daemon off;
user {user};
worker_processes auto;
pid pid;
error_log errors;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path bodies;
    proxy_temp_path answers;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream server {{
        server {server};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {listen} ssl reuseport;
        ssl_certificate leaf.pem;
        ssl_certificate_key key.pem;
        ssl_protocols TLSv1.3;
        keepalive_requests 1000000000;
        client_max_body_size 0;
        location / {{
            proxy_pass https://server;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host {HOST}:{port};
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_verify on;
            proxy_ssl_name {HOST};
            proxy_ssl_server_name on;
            proxy_ssl_trusted_certificate ca.pem;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            proxy_buffers 16 64k;
            proxy_buffer_size 64k;
            proxy_busy_buffers_size 128k;
        }}
    }}
}}
",
        user = if rustix::process::geteuid().is_root() { "root" } else { "nobody" },
        port = server.port(),
    )
}
