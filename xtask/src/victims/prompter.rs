//! Asks a model many things through the cache, and says what it was answered.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use agentos_core::{BoxError, Stopwatch, Worker, WorkerId};
use agentos_idempotency::{
    CacheConfig, Cached, Finish, GateConfig, IdempotencyStore, LlmAnswer, LlmOutputCache,
    LlmRequest, ToStore, Usage,
};
use agentos_store::sqlite::{Config, SqliteStore};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BUSY_TIMEOUT, ack, in_threads, say};
use crate::canary::Canary;
use crate::chat::{Asker, Completion, prompt};

/// What it says when it is done; [`AskedAll`] follows as JSON.
pub(crate) const DONE: &str = "done ";

/// The role of one who asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Prompter {
    /// The database.
    pub(crate) db: PathBuf,
    /// Its name, for the server.
    pub(crate) name: String,
    /// The name of the worker, of which there is one at a time.
    pub(crate) worker: String,
    /// The port of the server.
    pub(crate) port: u16,
    /// It asks so many requests, of the run with this seed.
    pub(crate) requests: u64,
    pub(crate) seed: u64,
    /// In so many threads.
    pub(crate) threads: u64,
    /// How it is broken.
    pub(crate) canary: Option<Canary>,
}

/// What was answered to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GotBack {
    /// Which.
    pub(crate) request: u64,
    /// Whether the cache says that no model was asked for it.
    pub(crate) hit: bool,
    /// The answer.
    pub(crate) text: String,
}

/// How asking went, by the cache's own count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AskedAll {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) hit_rate: f64,
    pub(crate) tokens_saved: u64,
    /// How long it took.
    pub(crate) ms: f64,
}

impl Prompter {
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        let store = SqliteStore::open(Config::at(&self.db).busy_timeout(BUSY_TIMEOUT))?;
        let owner = Worker::start(WorkerId::new(&self.worker)?);
        let config = GateConfig::new(owner).sole_start(true);
        let gate = IdempotencyStore::new(Arc::new(store), config)?;
        let cache = LlmOutputCache::new(gate, self.config())?;
        let watch = Stopwatch::start();
        in_threads(self.threads, |first| {
            let asker = Asker::new(self.port, &self.name)?;
            let mine = (first..self.requests).step_by(usize::try_from(self.threads)?);
            for number in mine {
                let answer = self.ask(&cache, &asker, number)?;
                if answer.is_hit() || self.canary != Some(Canary::AckBeforeCommit) {
                    ack(&GotBack {
                        request: number,
                        hit: answer.is_hit(),
                        text: answer.body,
                    })?;
                }
            }
            Ok(())
        })?;
        let ms = watch.elapsed().as_secs_f64() * 1e3;
        let stats = cache.stats();
        let done = AskedAll {
            hits: stats.cache_hits,
            misses: stats.cache_misses,
            hit_rate: stats.hit_rate,
            tokens_saved: stats.tokens_saved,
            ms,
        };
        say(&format!("{DONE}{}", serde_json::to_string(&done)?))?;
        Ok(())
    }

    fn ask(
        &self,
        cache: &LlmOutputCache,
        asker: &Asker,
        number: u64,
    ) -> Result<Cached<String>, BoxError> {
        let body = prompt(self.seed, number);
        let request = LlmRequest::json("loopback", self.known_by(body.clone()));
        let answer = cache.get_or_generate(&request, || {
            if self.canary == Some(Canary::PayTwice) {
                asker.ask(&body)?;
            }
            let completion = asker.ask(&body)?;
            if self.canary == Some(Canary::AckBeforeCommit) {
                ack(&GotBack {
                    request: number,
                    hit: false,
                    text: completion.text.clone(),
                })?;
            }
            io::Result::Ok(to_keep(completion))
        })?;
        Ok(answer)
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

    fn config(&self) -> CacheConfig {
        let config = CacheConfig::default();
        match self.canary {
            Some(Canary::ForgetAnswers) => config.keep(|_| false),
            Some(Canary::ChangeAnswers) => config.redact(|_, stored| {
                if let ToStore::Answer { bytes, .. } = stored {
                    bytes.push(b' ');
                }
                Ok(())
            }),
            _ => config,
        }
    }
}

fn to_keep(completion: Completion) -> LlmAnswer<String> {
    let usage = Usage {
        prompt_tokens: completion.prompt_tokens,
        completion_tokens: completion.completion_tokens,
        cost_micros: 0,
    };
    let finish = Finish::of_reason(&completion.finish_reason);
    LlmAnswer::new(completion.text).usage(usage).finish(finish)
}
