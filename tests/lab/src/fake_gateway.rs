//! A scripted UPnP gateway: a test defines its answers, and it records requests.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::Lab;
use crate::{Namespace, Result, io};

const PORT: u16 = 5000;
const CONNECTION: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";

/// A request over HTTP.
#[derive(Debug, Clone)]
pub struct Call {
    /// The SOAP action; for a GET the path.
    pub action: String,
    /// The arguments, as XML.
    pub body: String,
    /// The client.
    pub from: SocketAddr,
}

/// The answer of a script.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A body, with this status.
    Text(u16, String),
    /// A body without an end.
    Endless,
    /// Nothing; the connection stays open.
    Silence,
}

/// Success, with the results as XML.
pub fn done(call: &Call, arguments: &str) -> Answer {
    let action = &call.action;
    let answer = format!("<u:{action}Response xmlns:u=\"{CONNECTION}\">{arguments}</u:{action}Response>");
    Answer::Text(200, envelope(&answer))
}

/// An error (UPnP Device Architecture §3.3.2).
pub fn refused(code: u16, text: &str) -> Answer {
    let error = format!(
        "<UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\"><errorCode>{code}</errorCode>\
         <errorDescription>{text}</errorDescription></UPnPError>"
    );
    let fault = format!(
        "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>{error}</detail></s:Fault>"
    );
    Answer::Text(500, envelope(&fault))
}

fn envelope(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>{body}</s:Body></s:Envelope>"
    )
}

/// The answers of a conforming gateway with this external address, which has no mappings and accepts all requests.
pub fn honest(call: &Call, outside: Ipv4Addr) -> Answer {
    match call.action.as_str() {
        "/description.xml" => Answer::Text(200, description()),
        "/actions.xml" => Answer::Text(200, actions()),
        "GetExternalIPAddress" => {
            done(call, &format!("<NewExternalIPAddress>{outside}</NewExternalIPAddress>"))
        }
        "GetGenericPortMappingEntry" => refused(713, "SpecifiedArrayIndexInvalid"),
        _ => done(call, ""),
    }
}

fn description() -> String {
    let device = |kind: &str, inner: &str| {
        format!(
            "<device><deviceType>urn:schemas-upnp-org:device:{kind}:1</deviceType><friendlyName>fake</friendlyName>\
             {inner}</device>"
        )
    };
    let service = format!(
        "<serviceList><service><serviceType>{CONNECTION}</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1\
         </serviceId><SCPDURL>/actions.xml</SCPDURL><controlURL>/control</controlURL><eventSubURL>/events</eventSubURL>\
         </service></serviceList>"
    );
    let connection = format!("<deviceList>{}</deviceList>", device("WANConnectionDevice", &service));
    let wan = format!("<deviceList>{}</deviceList>", device("WANDevice", &connection));
    let root = device("InternetGatewayDevice", &wan);
    format!("<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\">{root}</root>")
}

fn actions() -> String {
    let action = |(name, arguments): (&str, &[&str])| {
        let argument =
            |name: &&str| format!("<argument><name>{name}</name><direction>in</direction></argument>");
        let arguments: String = arguments.iter().map(argument).collect();
        format!("<action><name>{name}</name><argumentList>{arguments}</argumentList></action>")
    };
    let known: [(&str, &[&str]); 2] = [
        (
            "AddPortMapping",
            &[
                "NewRemoteHost",
                "NewExternalPort",
                "NewProtocol",
                "NewInternalPort",
                "NewInternalClient",
                "NewEnabled",
                "NewPortMappingDescription",
                "NewLeaseDuration",
            ],
        ),
        ("DeletePortMapping", &["NewRemoteHost", "NewExternalPort", "NewProtocol"]),
    ];
    let list: String = known.into_iter().map(action).collect();
    format!(
        "<?xml version=\"1.0\"?><scpd xmlns=\"urn:schemas-upnp-org:service-1-0\"><actionList>{list}</actionList></scpd>"
    )
}

type Script = dyn Fn(&Call) -> Answer + Send + Sync;

struct Shared {
    calls: Mutex<Vec<Call>>,
    script: Mutex<Box<Script>>,
    ended: AtomicBool,
}

impl Shared {
    fn answer(&self, call: Call) -> Answer {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
        self.script.lock().unwrap_or_else(PoisonError::into_inner)(&call)
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// A gateway with a script.
pub struct FakeGateway {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its namespace.
    pub namespace: Namespace,
}

impl FakeGateway {
    /// A gateway with this number on the segment. Its answers to searches point to `location`, by default to itself.
    pub fn start(
        lab: &Lab,
        number: u8,
        location: Option<Ipv4Addr>,
        script: impl Fn(&Call) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        let namespace = lab.machine(&format!("gateway{number}"), number)?;
        let address = Ipv4Addr::new(10, 42, 0, number);
        let open = || {
            let search = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 1900))?;
            search.join_multicast_v4(&Ipv4Addr::new(239, 255, 255, 250), &address)?;
            search.set_read_timeout(Some(Duration::from_millis(50)))?;
            let requests = TcpListener::bind((address, PORT))?;
            requests.set_nonblocking(true)?;
            std::io::Result::Ok((search, requests))
        };
        let (search, requests) = namespace.within(open)?.map_err(io("a gateway's ports"))?;
        let shared = Arc::new(Shared {
            calls: Mutex::default(),
            script: Mutex::new(Box::new(script)),
            ended: AtomicBool::new(false),
        });
        let advertised = location.unwrap_or(address);
        let (finder, server) = (shared.clone(), shared.clone());
        let threads = vec![
            std::thread::spawn(move || answer_searches(&search, advertised, &finder)),
            std::thread::spawn(move || serve(&requests, &server)),
        ];
        Ok(Self { shared, threads, address, namespace })
    }

    /// Answer in another way from now on.
    pub fn play(&self, script: impl Fn(&Call) -> Answer + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(script);
    }

    /// All requests so far.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FakeGateway {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn answer_searches(search: &UdpSocket, advertised: Ipv4Addr, shared: &Shared) {
    let mut buffer = [0; 2048];
    while !shared.has_ended() {
        let Ok((_, from)) = search.recv_from(&mut buffer) else { continue };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\
             USN: uuid:1::urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nEXT:\r\nSERVER: fake\r\n\
             LOCATION: http://{advertised}:{PORT}/description.xml\r\nCACHE-CONTROL: max-age=120\r\n\r\n"
        );
        search.send_to(answer.as_bytes(), from).ok();
    }
}

fn serve(requests: &TcpListener, shared: &Arc<Shared>) {
    while !shared.has_ended() {
        match requests.accept() {
            Ok((stream, from)) => {
                let shared = shared.clone();
                // A connection without an answer does not delay others.
                std::thread::spawn(move || converse(stream, from, &shared));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn converse(mut stream: TcpStream, from: SocketAddr, shared: &Shared) -> Option<()> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    let (head, body) = loop {
        let length = stream.read(&mut buffer).ok().filter(|length| *length > 0)?;
        text.extend(buffer.get(..length)?);
        let all = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = all.split_once("\r\n\r\n") else { continue };
        let length: usize =
            header(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            break (head.to_owned(), body.to_owned());
        }
    };
    let path = head.split(' ').nth(1)?.to_owned();
    let action = header(&head, "soapaction")
        .and_then(|text| Some(text.trim_matches('"').rsplit_once('#')?.1.to_owned()));
    let call = Call { action: action.unwrap_or(path), body, from };
    match shared.answer(call) {
        Answer::Text(status, text) => {
            let head = format!(
                "HTTP/1.1 {status} -\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                text.len()
            );
            stream.write_all(format!("{head}{text}").as_bytes()).ok()
        }
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n\r\n<root>").ok()?;
            while !shared.has_ended() {
                stream.write_all(&[b' '; 4096]).ok()?;
            }
            None
        }
        Answer::Silence => {
            while !shared.has_ended() {
                std::thread::sleep(Duration::from_millis(50));
            }
            None
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
