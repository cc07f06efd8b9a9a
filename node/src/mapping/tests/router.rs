//! A router on a loopback address of its own, which maps ports on paper.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::task::AbortOnDropHandle;

use crate::lock::lock;

/// The protocol that a router speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Nothing,
    Pcp,
    NatPmp,
    Upnp,
}

pub(super) struct FakeRouter {
    ip: Ipv4Addr,
    ssdp: SocketAddr,
    pub(super) state: Arc<Mutex<State>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
pub(super) struct State {
    speaks: Speaks,
    pub(super) external_ip: Ipv4Addr,
    pub(super) max_lifetime: Duration,
    /// No request is answered.
    pub(super) is_silent: bool,
    /// Each request of PCP is refused.
    pub(super) refuses: bool,
    /// A mapping of UPnP can't have a lifetime.
    pub(super) only_permanent: bool,
    pub(super) requests: usize,
    /// The inner address and the end of each mapping, by the transport and the outer port.
    pub(super) mappings: BTreeMap<(&'static str, u16), (SocketAddr, Instant)>,
}

impl FakeRouter {
    pub(super) async fn start(speaks: Speaks) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let ip = Ipv4Addr::new(127, 77, NEXT.fetch_add(1, Ordering::Relaxed), 1);
        let state = Arc::new(Mutex::new(State {
            speaks,
            external_ip: Ipv4Addr::new(192, 0, 2, 7),
            max_lifetime: Duration::from_secs(3600),
            is_silent: false,
            refuses: false,
            only_permanent: false,
            requests: 0,
            mappings: BTreeMap::new(),
        }));
        let control = UdpSocket::bind((ip, crab_nat::GATEWAY_PORT)).await.unwrap();
        let search = UdpSocket::bind((ip, 0)).await.unwrap();
        let web = TcpListener::bind((ip, 0)).await.unwrap();
        let (ssdp, web_at) = (search.local_addr().unwrap(), web.local_addr().unwrap());
        let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            AbortOnDropHandle::new(tokio::spawn(task))
        };
        let tasks = vec![
            spawn(Box::pin(serve_control(control, state.clone()))),
            spawn(Box::pin(serve_search(search, web_at, state.clone()))),
            spawn(Box::pin(serve_web(web, state.clone()))),
        ];
        Self { ip, ssdp, state, _tasks: tasks }
    }

    pub(super) fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    pub(super) fn ssdp(&self) -> SocketAddr {
        self.ssdp
    }

    /// Lists the mappings that hold.
    pub(super) fn mappings(&self) -> Vec<String> {
        let mut state = lock(&self.state);
        state.forget();
        let line = |(&(transport, port), (to, _)): (&(&str, u16), &(SocketAddr, Instant))| {
            format!("{transport} {port} -> {to}")
        };
        state.mappings.iter().map(line).collect()
    }

    /// Maps a port to another machine.
    pub(super) fn occupy(&self, transport: &'static str, port: u16) {
        let other = SocketAddr::from(([127, 0, 0, 9], port));
        let end = Instant::now() + Duration::from_secs(3600);
        lock(&self.state).mappings.insert((transport, port), (other, end));
    }
}

impl State {
    fn forget(&mut self) {
        self.mappings.retain(|_, (_, end)| *end > Instant::now());
    }

    fn is_free(&self, transport: &'static str, port: u16, to: SocketAddr) -> bool {
        self.mappings.get(&(transport, port)).is_none_or(|(holder, _)| *holder == to)
    }

    /// Maps a port, or removes its mapping if the lifetime is 0. Returns the outer port and the lifetime.
    fn map(
        &mut self,
        transport: &'static str,
        to: SocketAddr,
        wish: u16,
        lifetime: u32,
    ) -> (u16, u32) {
        self.forget();
        if lifetime == 0 {
            self.mappings.retain(|(of, _), (held, _)| *of != transport || *held != to);
            return (0, 0);
        }
        let lifetime = Duration::from_secs(lifetime.into()).min(self.max_lifetime);
        let free = (wish..).find(|port| self.is_free(transport, *port, to)).unwrap();
        self.mappings.insert((transport, free), (to, Instant::now() + lifetime));
        (free, u32::try_from(lifetime.as_secs()).unwrap())
    }
}

/// Serves PCP and NAT-PMP.
async fn serve_control(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut buffer = [0; 1100];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let answer = answer_control(&mut lock(&state), &buffer[..length], from);
        if let Some(answer) = answer {
            socket.send_to(&answer, from).await.unwrap();
        }
    }
}

fn answer_control(state: &mut State, request: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    state.requests += 1;
    let u16_at = |at: usize| u16::from_be_bytes(request[at..at + 2].try_into().unwrap());
    let u32_at = |at: usize| u32::from_be_bytes(request[at..at + 4].try_into().unwrap());
    let inner = |port| SocketAddr::new(from.ip(), port);
    let (version, operation) = (request[0], request[1]);
    if state.is_silent {
        return None;
    }
    match (state.speaks, version) {
        (Speaks::Pcp, 2) => {
            let transport = if request[36] == 6 { "TCP" } else { "UDP" };
            let (port, wish) = (u16_at(40), u16_at(42));
            let mut answer = request.to_vec();
            answer[1] |= 0x80;
            answer[8..24].fill(0);
            if state.refuses {
                answer[3] = 2;
                return Some(answer);
            }
            let (outer, lifetime) = state.map(transport, inner(port), wish, u32_at(4));
            answer[4..8].copy_from_slice(&lifetime.to_be_bytes());
            answer[42..44].copy_from_slice(&outer.to_be_bytes());
            answer[44..60].copy_from_slice(&state.external_ip.to_ipv6_mapped().octets());
            Some(answer)
        }
        (Speaks::NatPmp, 0) if operation == 0 => {
            let mut answer = vec![0, 128, 0, 0, 0, 0, 0, 9];
            answer.extend(state.external_ip.octets());
            Some(answer)
        }
        (Speaks::NatPmp, 0) => {
            let transport = if operation == 2 { "TCP" } else { "UDP" };
            let port = u16_at(4);
            let (outer, lifetime) = state.map(transport, inner(port), u16_at(6), u32_at(8));
            let mut answer = vec![0, 128 | operation, 0, 0, 0, 0, 0, 9];
            answer.extend(port.to_be_bytes());
            answer.extend(outer.to_be_bytes());
            answer.extend(lifetime.to_be_bytes());
            Some(answer)
        }
        // The answer of a router without PCP (RFC 6886, section 3.5).
        (Speaks::NatPmp, _) => Some(vec![0, 128 | operation, 0, 1, 0, 0, 0, 9]),
        _ => None,
    }
}

/// Answers searches for UPnP.
async fn serve_search(socket: UdpSocket, web: SocketAddr, state: Arc<Mutex<State>>) {
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let is_answered = {
            let mut state = lock(&state);
            state.requests += 1;
            state.speaks == Speaks::Upnp && !state.is_silent
        };
        if is_answered && buffer[..length].starts_with(b"M-SEARCH") {
            let answer = format!("HTTP/1.1 200 OK\r\nLOCATION: http://{web}/device.xml\r\n\r\n");
            socket.send_to(answer.as_bytes(), from).await.unwrap();
        }
    }
}

const DEVICE: &str = "<root><device><deviceList><device><serviceList><service>\
    <serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
    <SCPDURL>/actions.xml</SCPDURL><controlURL>/control</controlURL>\
    </service></serviceList></device></deviceList></device></root>";

/// Serves the descriptions and the actions of UPnP.
async fn serve_web(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        // A client that has given up does not read the answer.
        let _ = serve_request(connection, &state).await;
    }
}

async fn serve_request(mut connection: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut request = String::new();
    let body = loop {
        let mut part = [0; 4096];
        let length = connection.read(&mut part).await?;
        request.push_str(std::str::from_utf8(&part[..length]).unwrap());
        let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let expected = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if length == 0 || body.len() >= expected.map_or(0, |length| length.parse().unwrap()) {
            break body.to_owned();
        }
    };
    let (status, answer) = {
        let mut state = lock(state);
        if state.is_silent {
            return Ok(());
        }
        match request.split_whitespace().nth(1).unwrap() {
            "/device.xml" => ("200 OK", DEVICE.to_owned()),
            "/actions.xml" => ("200 OK", actions()),
            _ => answer_action(&mut state, &body),
        }
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    );
    connection.write_all((head + &answer).as_bytes()).await?;
    connection.shutdown().await
}

fn actions() -> String {
    let action = |name: &str, arguments: &[&str]| {
        let argument = |name: &&str| {
            format!("<argument><name>{name}</name><direction>in</direction></argument>")
        };
        let arguments: String = arguments.iter().map(argument).collect();
        format!("<action><name>{name}</name><argumentList>{arguments}</argumentList></action>")
    };
    let add = [
        "NewRemoteHost",
        "NewExternalPort",
        "NewProtocol",
        "NewInternalPort",
        "NewInternalClient",
        "NewEnabled",
        "NewPortMappingDescription",
        "NewLeaseDuration",
    ];
    let all = [
        action("AddPortMapping", &add),
        action("DeletePortMapping", &add[..3]),
        action("GetExternalIPAddress", &[]),
    ];
    format!("<scpd><actionList>{}</actionList></scpd>", all.concat())
}

fn answer_action(state: &mut State, body: &str) -> (&'static str, String) {
    let argument = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>")).unwrap_or_default();
        rest.split('<').next().unwrap_or_default().to_owned()
    };
    let fault = |code: u16| {
        let error = format!(
            "<UPnPError><errorCode>{code}</errorCode><errorDescription>no</errorDescription></UPnPError>"
        );
        (
            "500 Internal Server Error",
            format!(
                "<Envelope><Body><Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>{error}</detail></Fault></Body></Envelope>"
            ),
        )
    };
    let done = |name: &str, values: &str| {
        (
            "200 OK",
            format!("<Envelope><Body><{name}Response>{values}</{name}Response></Body></Envelope>"),
        )
    };
    state.requests += 1;
    let transport = if argument("NewProtocol") == "TCP" { "TCP" } else { "UDP" };
    let port = argument("NewExternalPort").parse().unwrap_or_default();
    if body.contains("GetExternalIPAddress") {
        let value = format!("<NewExternalIPAddress>{}</NewExternalIPAddress>", state.external_ip);
        return done("GetExternalIPAddress", &value);
    }
    if body.contains("DeletePortMapping") {
        return match state.mappings.remove(&(transport, port)) {
            Some(_) => done("DeletePortMapping", ""),
            None => fault(714),
        };
    }
    let inner: SocketAddr =
        format!("{}:{}", argument("NewInternalClient"), argument("NewInternalPort"))
            .parse()
            .unwrap();
    let lifetime: u32 = argument("NewLeaseDuration").parse().unwrap();
    state.forget();
    if !state.is_free(transport, port, inner) {
        return fault(718);
    }
    if state.only_permanent && lifetime != 0 {
        return fault(725);
    }
    let lifetime = if lifetime == 0 { 3600 } else { lifetime };
    state.map(transport, inner, port, lifetime);
    done("AddPortMapping", "")
}
