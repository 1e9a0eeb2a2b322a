// SPDX-License-Identifier: GPL-3.0-or-later
//! A server that answers as told, byte by byte, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What happens to one request.
#[derive(Clone, Debug)]
pub enum Step {
    /// Status 200 and this body.
    Ok(String),
    /// This status and EC2's form of an error.
    Error(u16, &'static str, String),
    /// This status and this body.
    Status(u16, String),
    /// These bytes, whatever they are, and the connection ends.
    Raw(Vec<u8>),
    /// No answer; the connection stays open until the client gives up.
    Silence,
}

/// The parameters of one request of the EC2 Query API.
pub type Form = BTreeMap<String, String>;

pub struct Script {
    pub url: String,
    requests: Arc<Mutex<Vec<(String, Form)>>>,
}

impl Script {
    /// Each request takes the next step; a request beyond the last is refused with `ScriptEnded`.
    pub fn start(steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (steps, seen) = (Arc::new(Mutex::new(steps.into_iter())), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (steps, seen) = (Arc::clone(&steps), Arc::clone(&seen));
                thread::spawn(move || {
                    // The client may go away at any time: that is what some tests are about.
                    let _ = serve(stream, &mut || steps.lock().unwrap().next(), &seen);
                });
            }
        });
        Self { url, requests }
    }

    pub fn requests(&self) -> Vec<Form> {
        self.requests.lock().unwrap().iter().map(|(_, form)| form.clone()).collect()
    }

    /// Request lines and headers, in lower case.
    pub fn heads(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(head, _)| head.clone()).collect()
    }
}

fn serve(
    mut stream: TcpStream,
    next: &mut dyn FnMut() -> Option<Step>,
    seen: &Mutex<Vec<(String, Form)>>,
) -> std::io::Result<()> {
    while let Some((head, body)) = read_request(&mut stream)? {
        seen.lock().unwrap().push((head, form_urlencoded::parse(&body).into_owned().collect()));
        match next().unwrap_or(Step::Error(400, "ScriptEnded", "no more steps".into())) {
            Step::Ok(body) => reply(&mut stream, 200, &body)?,
            Step::Status(status, body) => reply(&mut stream, status, &body)?,
            Step::Error(status, code, message) => reply(&mut stream, status, &error_body(code, &message))?,
            Step::Raw(bytes) => {
                stream.write_all(&bytes)?;
                return Ok(());
            }
            Step::Silence => {
                // Ends when the client closes the connection.
                while stream.read(&mut [0; 1024])? > 0 {}
                return Ok(());
            }
        }
    }
    Ok(())
}

pub fn error_body(code: &str, message: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code>\
         <Message>{message}</Message></Error></Errors><RequestID>req-of-the-body</RequestID></Response>"
    )
}

fn reply(stream: &mut TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} Scripted\r\ncontent-type: text/xml\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Head and body of the next request, or nothing at the end of the connection.
fn read_request(stream: &mut TcpStream) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let mut block = [0; 16 * 1024];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |value| value.trim().parse().expect("a length"));
            let body = end + 4;
            if bytes.len() >= body + length {
                return Ok(Some((head, bytes[body..body + length].to_vec())));
            }
        }
        match stream.read(&mut block)? {
            0 => return Ok(None),
            count => bytes.extend_from_slice(&block[..count]),
        }
    }
}
