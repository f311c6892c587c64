//! The one exit: where connections, questions and everything else go.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use postern_sandbox::refused::{Protocol, parse};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::stand::Stand;

fn wait_readable(descriptor: impl AsFd) {
    let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut polled, Some(&limit)), Ok(1), "nothing came");
}

fn nothing_waits(descriptor: impl AsFd) {
    let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0), "something came");
}

fn accept(socket: &OwnedFd) -> TcpStream {
    wait_readable(socket);
    let (stream, _) = TcpListener::from(socket.try_clone().expect("clones")).accept().expect("accepts");
    stream.set_nonblocking(false).expect("sets");
    stream
}

fn original_destination(stream: &TcpStream) -> SocketAddr {
    let v4 = rustix::net::sockopt::ip_original_dst(stream).map(SocketAddr::V4);
    v4.or_else(|_| rustix::net::sockopt::ipv6_original_dst(stream).map(SocketAddr::V6))
        .expect("the kernel knows where it was going")
}

fn send(family: &str, host: &str, port: u16, options: &str) -> String {
    format!(
        "import socket\ns = socket.socket(socket.{family}, socket.SOCK_STREAM)\ns.settimeout(5)\n{options}\ns.connect(({host:?}, {port}))\ns.sendall(b'hello')\ns.close()\nprint('sent')"
    )
}

#[test]
fn every_tcp_connection_arrives_at_the_redirect_with_where_it_was_going() {
    let stand = Stand::new();
    let network = &stand.sandbox.network;
    for (family, host, port, socket) in [
        ("AF_INET", "203.0.113.5", 80, &network.redirect_v4),
        ("AF_INET", "169.254.169.254", 80, &network.redirect_v4),
        ("AF_INET", "10.0.0.1", 22, &network.redirect_v4),
        ("AF_INET", "8.8.8.8", 853, &network.redirect_v4),
        ("AF_INET6", "2001:db8::5", 443, &network.redirect_v6),
        ("AF_INET6", "fd00:ec2::254", 80, &network.redirect_v6),
        ("AF_INET6", "fe80::1%lo", 80, &network.redirect_v6),
    ] {
        let told = stand.python(&send(family, host, port, ""));
        if host.starts_with("fe80") && told.text != "sent\n" {
            continue;
        }
        assert_eq!(told.text, "sent\n", "{host}");
        let mut stream = accept(socket);
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("reads");
        assert_eq!(text, "hello");
        let expected: IpAddr = host.split('%').next().and_then(|host| host.parse().ok()).expect("an address");
        let destination = original_destination(&stream);
        assert_eq!((destination.ip(), destination.port()), (expected, port));
    }
}

#[test]
fn neither_an_own_source_address_nor_missing_proxy_variables_lead_past_the_redirect() {
    let stand = Stand::new();
    let told = stand.python(&send("AF_INET", "203.0.113.9", 443, "s.bind(('198.51.100.7', 0))"));
    assert_eq!(told.text, "sent\n");
    assert_eq!(
        original_destination(&accept(&stand.sandbox.network.redirect_v4)),
        "203.0.113.9:443".parse().expect("an address")
    );
    let told = stand
        .bash("unset HTTP_PROXY HTTPS_PROXY http_proxy https_proxy; exec 5<>/dev/tcp/203.0.113.6/8080 && echo x >&5");
    assert_eq!(told.code, 0, "{}", told.text);
    assert_eq!(
        original_destination(&accept(&stand.sandbox.network.redirect_v4)),
        "203.0.113.6:8080".parse().expect("an address")
    );
}

#[test]
fn an_answer_comes_back_through_the_redirect() {
    let stand = Stand::new();
    let redirect = stand.sandbox.network.redirect_v6.try_clone().expect("clones");
    let proxy = std::thread::spawn(move || accept(&redirect).write_all(b"answer").expect("writes"));
    let told = stand.python("import socket\ns = socket.create_connection(('2001:db8::7', 80), 5)\nprint(s.recv(100).decode(), s.getpeername()[0])");
    proxy.join().expect("does not panic");
    assert_eq!(told.text, "answer 2001:db8::7\n");
}

#[test]
fn questions_of_names_to_any_resolver_are_answered_by_ours() {
    let stand = Stand::new();
    let network = &stand.sandbox.network;
    for (family, host, socket) in [
        ("AF_INET", "8.8.8.8", &network.dns_udp_v4),
        ("AF_INET6", "2001:4860:4860::8888", &network.dns_udp_v6),
        ("AF_INET", "127.0.0.1", &network.dns_udp_v4),
    ] {
        let socket = UdpSocket::from(socket.try_clone().expect("clones"));
        let answerer = std::thread::spawn(move || {
            wait_readable(&socket);
            let mut question = [0; 64];
            let (length, from) = socket.recv_from(&mut question).expect("receives");
            socket.send_to(b"answer", from).expect("sends");
            question[..length].to_vec()
        });
        let told = stand.python(&format!("import socket\ns = socket.socket(socket.{family}, socket.SOCK_DGRAM)\ns.settimeout(5)\ns.sendto(b'question', ({host:?}, 53))\nprint(s.recvfrom(100)[0].decode())"));
        assert_eq!(told.text, "answer\n", "{host}");
        assert_eq!(answerer.join().expect("does not panic"), b"question");
    }
    for (family, host, socket) in
        [("AF_INET", "9.9.9.9", &network.dns_tcp_v4), ("AF_INET6", "2620:fe::fe", &network.dns_tcp_v6)]
    {
        assert_eq!(stand.python(&send(family, host, 53, "")).text, "sent\n");
        assert_eq!(original_destination(&accept(socket)).port(), 53);
    }
    assert_eq!(stand.bash("cat /etc/resolv.conf | head -1").text, "nameserver 127.0.0.1\n");
}

#[test]
fn other_datagrams_are_refused_at_once_and_reported() {
    let stand = Stand::new();
    let log = stand.sandbox.network.refused_udp.as_ref().expect("this kernel has the log");
    for (family, host, port) in
        [("AF_INET", "203.0.113.5", 443), ("AF_INET6", "2001:db8::5", 443), ("AF_INET", "192.0.2.1", 123)]
    {
        let told = stand.python(&format!("import socket\ns = socket.socket(socket.{family}, socket.SOCK_DGRAM)\ns.settimeout(5)\ntry:\n s.connect(({host:?}, {port})); s.send(b'quic'); s.recv(10); print('passed')\nexcept socket.timeout: print('timeout')\nexcept OSError as e: print('refused')"));
        assert_eq!(told.text, "refused\n", "{host}");
        wait_readable(log);
        let mut datagram = vec![0; 1 << 16];
        let length = rustix::io::read(log, &mut datagram).expect("reads");
        let refused = parse(&datagram[..length]);
        assert_eq!(
            (refused[0].protocol, refused[0].destination, refused[0].port),
            (Protocol::Udp, host.parse().expect("an address"), Some(port))
        );
    }
}

#[test]
fn datagrams_do_not_reach_the_redirect_or_another_socket_inside() {
    let stand = Stand::new();
    let told = stand.python("import socket\nr = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); r.bind(('0.0.0.0', 7000)); r.settimeout(0.2)\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ntry: s.sendto(b'x', ('203.0.113.1', 7000))\nexcept OSError: pass\ntry: r.recv(10); print('came')\nexcept socket.timeout: print('nothing')");
    assert_eq!(told.text, "nothing\n");
}

#[test]
fn loopback_inside_stays_inside_and_is_not_the_hosts() {
    let stand = Stand::new();
    let host = TcpListener::bind("127.0.0.1:0").expect("listens on the host");
    let port = host.local_addr().expect("has one").port();
    let told = stand.python(&format!(
        "import socket\ns = socket.socket(); s.settimeout(5)\nprint(s.connect_ex(('127.0.0.1', {port})))"
    ));
    assert_eq!(told.text, "111\n", "the host's port must look closed");
    host.set_nonblocking(true).expect("sets");
    assert!(host.accept().is_err());
    let told = stand.python("import socket\nfor family, a in [(socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1'), (socket.AF_INET, '127.8.8.8')]:\n l = socket.socket(family); l.bind((a, 8000)); l.listen(); c = socket.socket(family); c.connect((a, 8000)); s, _ = l.accept(); c.send(b'in'); print(s.recv(9).decode()); l.close(); s.close(); c.close()");
    assert_eq!(told.text, "in\nin\nin\n");
    nothing_waits(&stand.sandbox.network.redirect_v4);
    nothing_waits(&stand.sandbox.network.redirect_v6);
}

#[test]
fn programs_that_follow_proxy_variables_reach_the_proxy() {
    let stand = Stand::new();
    let told = stand.bash("exec 5<>/dev/tcp/127.0.0.1/3128 && printf 'CONNECT x' >&5; echo $https_proxy");
    assert_eq!(told.text, "http://127.0.0.1:3128\n");
    let mut text = String::new();
    accept(&stand.sandbox.network.proxy).read_to_string(&mut text).expect("reads");
    assert_eq!(text, "CONNECT x");
}

#[test]
fn nobody_inside_can_take_the_exits_ports_or_change_the_rules() {
    let stand = Stand::new();
    let told = stand.python("import socket\nfor a, p, t in [('127.0.0.1', 15001, socket.SOCK_STREAM), ('0.0.0.0', 15001, socket.SOCK_STREAM), ('0.0.0.0', 53, socket.SOCK_DGRAM), ('127.0.0.1', 3128, socket.SOCK_STREAM), ('127.0.0.1', 15099, socket.SOCK_DGRAM), ('127.0.0.1', 15099, socket.SOCK_STREAM)]:\n s = socket.socket(socket.AF_INET, t); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n try: s.bind((a, p)); t == socket.SOCK_STREAM and s.listen(); print('took', p)\n except OSError as e: pass\nn = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); n.bind((0, 0))\nimport struct\n# RTM_NEWROUTE, unicast default\nm = struct.pack('IHHII', 28, 24, 0x405, 1, 0) + bytes([2, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0])\nn.send(m); print(struct.unpack('i', n.recv(100)[16:20])[0])");
    let free = "took 15099\ntook 15099\n";
    assert_eq!(
        told.text,
        format!("{free}-1\n"),
        "what is free is taken, and nothing else; only EPERM from the routing socket"
    );
}
