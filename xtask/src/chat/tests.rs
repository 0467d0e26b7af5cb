//! Server and client over a real socket.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use agentos_core::Deadline;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// A server in a thread of its own, which ends with the test's process.
fn serve(pace: Pace) -> u16 {
    let (say, port) = mpsc::channel();
    thread::Builder::new()
        .name("model".into())
        .spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::listen(pace).await.unwrap();
                say.send(server.port().unwrap()).unwrap();
                server.serve().await.unwrap()
            })
        })
        .unwrap();
    port.recv_timeout(PATIENCE).unwrap()
}

/// Speaks to the server without any client; gives the status and the body.
fn speak(port: u16, head: &str, body: &str) -> (u16, Value) {
    let mut stream = connect(port);
    let length = body.len();
    write!(
        stream,
        "{head}\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    (status, serde_json::from_str(body).unwrap())
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn a_public_client_understands_the_answers_and_each_call_is_counted() {
    let port = serve(Pace::default());
    let asked = prompt(1, 6);
    let expected = completion(answer(&asked).unwrap()).unwrap();
    assert_eq!(expected.finish_reason, "stop");
    assert!(expected.prompt_tokens > 0 && expected.completion_tokens > 0);
    for caller in ["one", "two", "one"] {
        let asker = Asker::new(port, caller).unwrap();
        assert_eq!(asker.ask(&asked).unwrap(), expected);
    }
    let calls = calls_of(port).unwrap();
    let callers: Vec<&str> = calls.iter().map(|call| call.caller.as_str()).collect();
    assert_eq!(callers, ["one", "two", "one"]);
    let named = digest(&asked).to_string();
    for call in &calls {
        assert_eq!(call.request, named);
        assert!(call.begun_us <= call.answered_us.unwrap());
    }
}

#[test]
fn a_refusal_has_the_form_of_the_protocol_and_the_client_gives_it_on() {
    let port = serve(Pace::default());
    let asker = Asker::new(port, "one").unwrap();
    let mut wrong = prompt(1, 0);
    wrong["n"] = json!(2);
    let error = asker.ask(&wrong).unwrap_err().to_string();
    assert!(error.contains("this model gives one choice"), "{error}");
    assert!(error.contains("param: n"), "{error}");

    let authorized = "POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer one";
    for (head, body, status, message) in [
        (authorized, "{", 400, "no JSON"),
        (authorized, "{}", 400, "you must provide a model parameter"),
        ("POST /v1/chat/completions HTTP/1.1", "{}", 401, "API key"),
        ("GET /v1/chat/completions HTTP/1.1", "", 404, "invalid URL"),
        ("POST /v1/embeddings HTTP/1.1", "{}", 404, "invalid URL"),
    ] {
        let (found, body) = speak(port, head, body);
        assert_eq!(found, status, "{head}");
        let error = &body["error"];
        assert_eq!(error["type"], "invalid_request_error");
        assert!(
            error["message"].as_str().unwrap().contains(message),
            "{body}"
        );
        assert!(error.get("param").is_some() && error.get("code").is_some());
    }
}

/// Goal: a call whose caller died is counted, and is not answered. Method: a connection
/// is closed while the server takes its time; another call, begun later, is answered.
#[test]
fn a_call_whose_caller_goes_away_is_counted_and_never_answered() {
    let delay_ms = 300;
    let port = serve(Pace {
        delay_ms,
        spread_ms: 20,
    });
    let gone = prompt(1, 0).to_string();
    let mut stream = connect(port);
    let length = gone.len();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nauthorization: Bearer gone";
    write!(stream, "{head}\r\ncontent-length: {length}\r\n\r\n{gone}").unwrap();
    let deadline = Deadline::after(PATIENCE);
    while calls_of(port).unwrap().is_empty() {
        assert!(!deadline.passed(), "the call is not counted");
    }
    drop(stream);
    Asker::new(port, "stays")
        .unwrap()
        .ask(&prompt(1, 1))
        .unwrap();
    let calls = calls_of(port).unwrap();
    let answered: Vec<(&str, bool)> = calls
        .iter()
        .map(|call| (call.caller.as_str(), call.answered_us.is_some()))
        .collect();
    assert_eq!(answered, [("gone", false), ("stays", true)]);
    let took = calls[1].answered_us.unwrap() - calls[1].begun_us;
    assert!(took >= i64::try_from(delay_ms).unwrap() * 1000, "{took}");
}
