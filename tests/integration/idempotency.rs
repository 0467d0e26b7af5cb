//! Nothing is done twice, nothing is paid twice: the gate and what rests on it, on a
//! real store.

mod command_tool;
mod gate;
mod llm_cache;
mod tool_ledger;
