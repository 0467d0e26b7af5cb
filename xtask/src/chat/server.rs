//! The server: answers requests, and keeps who asked what and when.
//!
//! A call counts from when its request has arrived as a whole, whatever becomes of its
//! caller. It is answered when its answer is handed over to be sent; when the caller is
//! gone before that, it never is. What was counted ends with the process.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agentos_core::{Clock, Digest, SystemClock};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use super::answer::{Refusal, answer, digest};

/// Where completions are asked for.
const COMPLETIONS_PATH: &str = "/v1/chat/completions";
/// Where the calls are asked for. No part of the protocol.
pub(super) const CALLS_PATH: &str = "/calls";
/// Bytes of the longest request.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Calls that are kept: a client that asks for ever must not fill the memory.
const CALLS_MAX: usize = 1_000_000;

/// How long answers take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pace {
    /// Each at least so long, in milliseconds.
    pub(crate) delay_ms: u64,
    /// And up to so much longer, as the request says.
    pub(crate) spread_ms: u64,
}

impl Pace {
    fn delay_of(self, request: Digest) -> Duration {
        let [first, second, ..] = *request.as_bytes();
        let part = u64::from(u16::from_le_bytes([first, second]));
        let more = self.spread_ms.saturating_mul(part) / u64::from(u16::MAX);
        Duration::from_millis(self.delay_ms.saturating_add(more))
    }
}

/// A request that arrived, in the order of their arrival.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Call {
    /// Who asked: the key to the API that was shown.
    pub(crate) caller: String,
    /// Digest of what was asked; see [`digest`].
    pub(crate) request: String,
    /// When it arrived, in microseconds of the boot-time clock.
    pub(crate) begun_us: i64,
    /// When its answer was handed over; `None`: not yet, or its caller went away.
    pub(crate) answered_us: Option<i64>,
}

/// A server that is listening.
pub(crate) struct Server {
    listener: TcpListener,
    state: Arc<State>,
}

struct State {
    pace: Pace,
    calls: Mutex<Vec<Call>>,
}

impl Server {
    /// Listens on loopback, at a port that is free.
    pub(crate) async fn listen(pace: Pace) -> io::Result<Server> {
        let state = State {
            pace,
            calls: Mutex::default(),
        };
        Ok(Server {
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
            state: Arc::new(state),
        })
    }

    /// The port at which it listens.
    pub(crate) fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Serves until it is dropped, or cannot listen any more.
    pub(crate) async fn serve(self) -> io::Result<Infallible> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            // Answers are small: they must not wait for the acknowledgement of others.
            stream.set_nodelay(true)?;
            tokio::spawn(attend(stream, Arc::clone(&self.state)));
        }
    }
}

/// Serves one connection until its client closes it. That a client dies is no error.
async fn attend(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(state.respond(request).await) }
    });
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new());
    // When the client is gone this ends, and with it the call that is under way.
    let _ = connection
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl State {
    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let result = match (request.method(), request.uri().path()) {
            (&Method::POST, COMPLETIONS_PATH) => self.complete(request).await,
            (&Method::GET, CALLS_PATH) => self.told(),
            (method, path) => {
                let message = format!("invalid URL ({method} {path})");
                Err(Refusal::new(404, message))
            }
        };
        match result {
            Ok(body) => response(200, body),
            Err(refusal) => response(refusal.status, refusal.body().to_string()),
        }
    }

    async fn complete(&self, request: Request<Incoming>) -> Result<String, Refusal> {
        let caller = caller(&request)?;
        let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX);
        let body = body.collect().await;
        let body = body.map_err(|error| Refusal::new(413, error.to_string()))?;
        let request: Value = serde_json::from_slice(&body.to_bytes())
            .map_err(|error| Refusal::new(400, format!("no JSON: {error}")))?;
        let digest = digest(&request);
        let place = self.note(caller, digest)?;
        let delay = self.pace.delay_of(digest);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let answer = answer(&request)?;
        if let Some(call) = self.calls().get_mut(place) {
            call.answered_us = Some(now_us());
        }
        Ok(answer.to_string())
    }

    /// Counts a call; says which it is.
    fn note(&self, caller: String, request: Digest) -> Result<usize, Refusal> {
        let mut calls = self.calls();
        if calls.len() == CALLS_MAX {
            return Err(Refusal::new(429, "more calls than are counted"));
        }
        calls.push(Call {
            caller,
            request: request.to_string(),
            begun_us: now_us(),
            answered_us: None,
        });
        Ok(calls.len() - 1)
    }

    fn told(&self) -> Result<String, Refusal> {
        serde_json::to_string(&*self.calls())
            .map_err(|error| Refusal::new(500, format!("the calls cannot be told: {error}")))
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asks, by the key that it shows. Every key is good, no key is not.
fn caller(request: &Request<Incoming>) -> Result<String, Refusal> {
    let shown = request.headers().get(AUTHORIZATION);
    let key = shown
        .and_then(|shown| shown.to_str().ok())
        .and_then(|shown| shown.strip_prefix("Bearer "))
        .filter(|key| !key.is_empty());
    key.map(str::to_owned).ok_or_else(|| Refusal {
        code: Some("invalid_api_key"),
        ..Refusal::new(401, "you did not provide an API key")
    })
}

fn response(status: u16, body: String) -> Response<Full<Bytes>> {
    let json = hyper::header::HeaderValue::from_static("application/json");
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() =
        hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn now_us() -> i64 {
    SystemClock.boot().micros
}
