//! Idempotency keys: their states.

text_enum! {
    /// State of an idempotency key.
    pub enum KeyStatus {
        /// Its execution has begun; the outcome is not recorded.
        Pending = "pending",
        /// The outcome is recorded.
        Succeeded = "succeeded",
        /// A failure is recorded.
        Failed = "failed",
    }
}

impl KeyStatus {
    /// The state in which keys are made.
    pub const INITIAL: KeyStatus = KeyStatus::Pending;

    /// Whether a key in this state may change to `next`. A recorded outcome
    /// goes back to pending when it has expired, or is to be made again.
    pub const fn can_become(self, next: KeyStatus) -> bool {
        use KeyStatus::{Failed, Pending, Succeeded};
        matches!(
            (self, next),
            (Pending, Succeeded | Failed) | (Succeeded | Failed, Pending)
        )
    }
}
