//! Asks a model the same as many others, through the cache, in several threads. Who gets
//! to ask the model says so before it does: it may be killed then.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agentos_chaos::{Prng, scenario_seed};
use agentos_core::{BoxError, Storage, Worker, WorkerId};
use agentos_idempotency::{
    CacheConfig, CacheError, CallOptions, GateConfig, IdempotencyStore, LlmAnswer, LlmOutputCache,
    LlmRequest,
};
use agentos_store::sqlite::Config;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::jumps::true_now_us;
use super::key_teller::{Came, KeyTeller};
use super::{BUSY_TIMEOUT, ack, in_threads, say};
use crate::broken_store;
use crate::canary::Canary;
use crate::chat::{Asker, prompt};
use crate::model::flight::Asking;

/// What it says before it asks the model; the number of the request follows.
pub(crate) const PAYS: &str = "pays ";
/// Requests that a thread asks in an order of its own, before it comes to the next ones:
/// so all threads are at about the same ones.
const BLOCK: usize = 5;

/// The role of one who asks what others ask too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Payer {
    /// The database.
    pub(crate) db: PathBuf,
    /// Its name, the same in each of its starts.
    pub(crate) name: String,
    /// Which of them this is.
    pub(crate) start: u64,
    /// The port of the server.
    pub(crate) port: u16,
    /// It asks so many requests, of the run with this seed.
    pub(crate) requests: usize,
    pub(crate) seed: u64,
    /// In each of so many threads.
    pub(crate) threads: u64,
    /// How long its permits last, in milliseconds.
    pub(crate) permit_ms: u64,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// Where an answer came from that this process has paid for.
const PAID_FOR: &str = "Generated";

/// What one thread was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heard {
    pub(crate) thread: u64,
    pub(crate) request: usize,
    pub(crate) answer: String,
    /// Where the answer came from, by the cache's own word.
    pub(crate) origin: String,
    /// Whether others get it too, by the cache's own word.
    pub(crate) is_kept: bool,
    /// When it had come, in microseconds of the boot-time clock.
    pub(crate) at_us: i64,
}

impl Payer {
    /// The name of this start.
    pub(crate) fn life(&self) -> String {
        format!("{}.{}", self.name, self.start)
    }

    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = Config::at(&self.db).busy_timeout(BUSY_TIMEOUT);
        let storage = broken_store::open(config, self.canary)?;
        let owner = Worker::start(WorkerId::new(&self.name)?);
        let config = GateConfig::new(owner)
            .permit_lease(Duration::from_millis(self.permit_ms))
            .sole_start(true);
        let teller = KeyTeller::over(storage, self.life());
        let gate = IdempotencyStore::new(Arc::clone(&teller) as Arc<dyn Storage>, config)?;
        let cache = LlmOutputCache::new(gate, CacheConfig::default())?;
        in_threads(self.threads, |number| self.ask_all(&cache, &teller, number))
    }

    fn ask_all(
        &self,
        cache: &LlmOutputCache,
        teller: &KeyTeller,
        thread: u64,
    ) -> Result<(), BoxError> {
        let life = self.life();
        let who = Asking { life, thread }.to_string();
        let asker = Asker::new(self.port, &who)?;
        for number in self.order(&who) {
            let tell = |answer: &str, origin: &str, is_kept| {
                ack(&Heard {
                    thread,
                    request: number,
                    answer: answer.to_owned(),
                    origin: origin.to_owned(),
                    is_kept,
                    at_us: true_now_us(),
                })
            };
            let early = |answer: &str| match self.canary {
                Some(Canary::AckBeforeCommit) => tell(answer, PAID_FOR, true),
                _ => Ok(()),
            };
            let (answer, origin, is_kept) = self.ask(cache, teller, &asker, number, early)?;
            if origin != PAID_FOR || self.canary != Some(Canary::AckBeforeCommit) {
                tell(&answer, &origin, is_kept)?;
            }
        }
        Ok(())
    }

    /// The order of a thread's requests, which follows from the seed.
    fn order(&self, who: &str) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.requests).collect();
        let mut rng = Prng::seeded(scenario_seed(self.seed, who));
        for block in order.chunks_mut(BLOCK) {
            rng.shuffle(block);
        }
        order
    }

    fn ask(
        &self,
        cache: &LlmOutputCache,
        teller: &KeyTeller,
        asker: &Asker,
        number: usize,
        early: impl Fn(&str) -> io::Result<()>,
    ) -> Result<(String, String, bool), BoxError> {
        let body = prompt(self.seed, u64::try_from(number)?);
        let request = LlmRequest::json("loopback", self.known_by(body.clone()));
        let pay = || -> io::Result<LlmAnswer<String>> {
            say(&format!("{PAYS}{number}"))?;
            let text = asker.ask(&body)?.text;
            early(&text)?;
            Ok(LlmAnswer::new(text))
        };
        let mut options = CallOptions::new();
        if self.canary == Some(Canary::DoNotWait) {
            options = options.wait(Duration::ZERO);
        }
        teller.asks(request.key()?)?;
        let answer = cache.call(&request, &options, pay);
        teller.told(&match &answer {
            Ok(_) => Came::Answered,
            Err(CacheError::InFlight { .. }) => Came::InFlight,
            Err(CacheError::Gate(error)) => Came::of(error.storage()),
            Err(_) => Came::of(None),
        })?;
        match answer {
            Ok(cached) => {
                let (origin, is_kept) = (format!("{:?}", cached.origin), cached.stored());
                Ok((cached.body, origin, is_kept))
            }
            Err(CacheError::InFlight { .. }) if self.canary == Some(Canary::DoNotWait) => {
                Ok((pay()?.body, "Aside".into(), true))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What the cache is told of a request.
    fn known_by(&self, mut body: Value) -> Value {
        if self.canary == Some(Canary::IgnoreTemperature)
            && let Some(fields) = body.as_object_mut()
        {
            fields.remove("temperature");
        }
        body
    }
}
