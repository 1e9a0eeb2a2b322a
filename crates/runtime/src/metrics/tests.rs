// SPDX-License-Identifier: GPL-3.0-or-later
//! What local users can ask of the port, and how much of slurmctld they can take with it.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::supervise::passive_status;

const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn server(board: &Board, limits: Limits) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_on(listener, board.clone(), limits));
    (address, tasks)
}

/// Renders as the acting loop does, and counts how often.
fn heart(board: &Board, beat: Duration) -> (Arc<AtomicUsize>, JoinSet<()>) {
    let (board, rendered) = (board.clone(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&rendered);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            board.render_if_asked(|| {
                count.fetch_add(1, Ordering::SeqCst);
                passive_status("a test", "cluster", 0)
            });
            tokio::time::sleep(beat).await;
        }
    });
    (rendered, tasks)
}

/// Everything until the server closes.
async fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request).await.expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    text
}

#[tokio::test]
async fn a_reader_gets_the_metrics_and_the_connection_is_closed() {
    let board = Board::default();
    let (address, _server) = server(&board, LIMITS).await;
    let (_, _heart) = heart(&board, Duration::from_millis(5));
    let text = ask(address, GET).await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.to_lowercase().contains("\r\nconnection: close\r\n"), "{text}");
    assert!(text.contains(CONTENT_TYPE), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    let elsewhere = ask(address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(elsewhere.starts_with("HTTP/1.1 404 "), "{elsewhere}");
    let posted =
        ask(address, b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
}

/// Whatever many readers ask, the engine is asked once in a heartbeat, and not at all while the last text is fresh.
#[tokio::test]
async fn a_hundred_readers_cost_one_rendering() {
    let board = Board::default();
    let mut readers = JoinSet::new();
    for _ in 0..100 {
        let board = board.clone();
        readers.spawn(async move { board.read().await });
    }
    tokio::task::yield_now().await;
    let (rendered, _heart) = heart(&board, Duration::from_millis(5));
    while let Some(text) = readers.join_next().await {
        assert!(text.expect("no panic").is_some());
    }
    assert!(board.read().await.is_some());
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(rendered.load(Ordering::SeqCst), 1);
}

/// Idle connections take no more descriptors than the bound, and only until the time of a request has passed.
#[tokio::test]
async fn idle_connections_are_few_and_are_closed() {
    let board = Board::default();
    let limits = Limits { connections: 16, request: Duration::from_secs(1) };
    let (address, _server) = server(&board, limits).await;
    let (_, _heart) = heart(&board, Duration::from_millis(5));
    let mut idle = Vec::new();
    for _ in 0..limits.connections {
        idle.push(TcpStream::connect(address).await.expect("a connection"));
    }
    let next = tokio::spawn(ask(address, GET));
    tokio::time::sleep(limits.request / 2).await;
    assert!(!next.is_finished(), "the seventeenth is not served beside sixteen");
    for mut stream in idle {
        let closed = timeout(limits.request * 3, stream.read(&mut [0; 1])).await.expect("closed in time");
        assert!(matches!(closed, Ok(0)), "{closed:?}");
    }
    assert!(next.await.expect("no panic").starts_with("HTTP/1.1 200 OK\r\n"));
}

/// For example while the engine starts again from its journal.
#[tokio::test]
async fn nobody_acts_so_the_reader_is_told() {
    let board = Board::default();
    let (address, _server) = server(&board, LIMITS).await;
    let text = ask(address, GET).await;
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
}
