// SPDX-License-Identifier: GPL-3.0-or-later
//! moto's server: another party's reading of the EC2 API.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

struct Server {
    url: String,
    /// The server ends when its standard input is closed, which the kernel does however this process ends.
    _process: Child,
}

/// The address of the one server of this process. Without moto there is no test: it panics.
pub fn url() -> &'static str {
    static SERVER: OnceLock<Server> = OnceLock::new();
    &SERVER.get_or_init(start).url
}

fn start() -> Server {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/ec2");
    let install = Command::new(folder.join("moto.sh"))
        .arg(env!("CARGO_TARGET_TMPDIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("tests/ec2/moto.sh starts");
    assert!(
        install.status.success(),
        "moto could not be installed: it needs python3-venv and a package index"
    );
    let python = String::from_utf8(install.stdout).expect("a path");
    let mut server = Command::new(python.trim_end())
        .arg(folder.join("moto_server.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("moto starts");
    let mut url = String::new();
    BufReader::new(server.stdout.take().expect("its output")).read_line(&mut url).expect("its address");
    assert!(url.starts_with("http://127.0.0.1:"), "moto did not start: {url:?}");
    Server { url: url.trim_end().to_owned(), _process: server }
}
