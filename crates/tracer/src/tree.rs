//! Who is who in the process tree: lineage, and the counters that make it.
//!
//! Plain bookkeeping over ids; no system call. A thread's record goes when the
//! thread does, so that what is held is what lives.

use std::collections::BTreeMap;

use crate::position::{Position, ProcessPath, ThreadPath};

/// A call that began and has not returned.
#[derive(Debug)]
pub(crate) struct Begun<T> {
    pub(crate) nth: u64,
    pub(crate) what: T,
}

/// One thread that lives.
#[derive(Debug)]
pub(crate) struct Thread<T> {
    /// The id of its process.
    pub(crate) process: i32,
    process_path: ProcessPath,
    thread_path: ThreadPath,
    /// Whether it has a place in the tree. One whose creator was killed from
    /// outside while it created it has none, and neither has what it creates.
    pub(crate) named: bool,
    /// Interesting calls so far.
    calls: u64,
    /// Threads and child processes that it created.
    threads: u32,
    children: u32,
    /// The call that it is in.
    pub(crate) begun: Option<Begun<T>>,
    /// A call that a signal interrupted before it did anything: made again, it
    /// is the same call.
    pub(crate) interrupted: Option<(u64, Signature)>,
}

/// What makes a call the same call when it is made again: its number, its
/// arguments, where it is made and on which stack.
pub(crate) type Signature = [u64; 9];

impl<T> Thread<T> {
    fn new(process: i32, process_path: ProcessPath, thread_path: ThreadPath) -> Thread<T> {
        Thread {
            process,
            process_path,
            thread_path,
            named: true,
            calls: 0,
            threads: 0,
            children: 0,
            begun: None,
            interrupted: None,
        }
    }

    /// The number of the call that begins with this signature: the next one,
    /// unless it is made again after a signal.
    pub(crate) fn next_call(&mut self, signature: Signature) -> (u64, bool) {
        match self.interrupted.take() {
            Some((nth, before)) if before == signature => (nth, true),
            kept => {
                self.interrupted = kept;
                self.calls += 1;
                (self.calls, false)
            }
        }
    }

    pub(crate) fn position(&self, nth: u64) -> Position {
        Position::new(self.process_path.clone(), self.thread_path.clone(), nth)
    }
}

/// The threads that live, by id.
#[derive(Debug)]
pub(crate) struct Tree<T> {
    threads: BTreeMap<i32, Thread<T>>,
    pub(crate) processes_seen: u64,
    pub(crate) threads_seen: u64,
}

impl<T> Tree<T> {
    pub(crate) fn new(root: i32) -> Tree<T> {
        let thread = Thread::new(root, ProcessPath::root(), ThreadPath::main());
        Tree {
            threads: BTreeMap::from([(root, thread)]),
            processes_seen: 1,
            threads_seen: 1,
        }
    }

    pub(crate) fn get(&mut self, id: i32) -> Option<&mut Thread<T>> {
        self.threads.get_mut(&id)
    }

    pub(crate) fn knows(&self, id: i32) -> bool {
        self.threads.contains_key(&id)
    }

    /// `creator` created the thread `id` of its own process.
    pub(crate) fn add_thread(&mut self, creator: Option<i32>, id: i32) {
        let Some(thread) = creator.and_then(|id| self.threads.get_mut(&id)) else {
            return;
        };
        thread.threads += 1;
        let path = thread.thread_path.child(thread.threads);
        let mut new = Thread::new(thread.process, thread.process_path.clone(), path);
        new.named = thread.named;
        self.threads.insert(id, new);
        self.threads_seen += 1;
    }

    /// `creator`, if it is known, created the process `id`.
    pub(crate) fn add_process(&mut self, creator: Option<i32>, id: i32) {
        let new = match creator.and_then(|id| self.threads.get_mut(&id)) {
            Some(thread) => {
                thread.children += 1;
                let path = thread
                    .process_path
                    .child(&thread.thread_path, thread.children);
                let mut new = Thread::new(id, path, ThreadPath::main());
                new.named = thread.named;
                new
            }
            None => {
                let mut new = Thread::new(id, ProcessPath::root(), ThreadPath::main());
                new.named = false;
                new
            }
        };
        self.threads.insert(id, new);
        self.processes_seen += 1;
        self.threads_seen += 1;
    }

    /// The process executed another program from its thread `former`, which is
    /// the main thread `id` from now on. All other threads are gone.
    pub(crate) fn executed(&mut self, id: i32, former: i32) {
        if former != id {
            self.threads.remove(&former);
        }
        if let Some(thread) = self.threads.get_mut(&id) {
            thread.begun = None;
            thread.interrupted = None;
        }
    }

    /// The thread is gone. Returns whether its process is gone with it.
    pub(crate) fn remove(&mut self, id: i32) -> bool {
        self.threads
            .remove(&id)
            .is_some_and(|thread| thread.process == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tree: &mut Tree<()>, id: i32) -> String {
        let thread = tree.get(id).unwrap();
        let (nth, again) = thread.next_call([id as u64; 9]);
        assert!(!again);
        thread.position(nth).to_string()
    }

    #[test]
    fn names_follow_lineage_and_not_ids() {
        let mut tree = Tree::new(10);
        tree.add_thread(Some(10), 90);
        tree.add_thread(Some(10), 20);
        tree.add_thread(Some(20), 21);
        tree.add_process(Some(10), 5);
        tree.add_process(Some(20), 6);
        tree.add_process(Some(20), 7);
        assert_eq!(text(&mut tree, 10), "1/1#1");
        assert_eq!(text(&mut tree, 10), "1/1#2");
        assert_eq!(text(&mut tree, 90), "1/1+1#1");
        assert_eq!(text(&mut tree, 21), "1/1+2+1#1");
        assert_eq!(text(&mut tree, 5), "1.1/1#1");
        assert_eq!(text(&mut tree, 7), "1.2@1+2/1#1");
        assert_eq!((tree.processes_seen, tree.threads_seen), (4, 7));
        assert!(!tree.remove(21));
        assert!(tree.remove(5));
        // Nobody knows who created this one, nor what it creates.
        tree.add_process(None, 40);
        tree.add_process(Some(40), 41);
        assert!(!tree.get(40).unwrap().named && !tree.get(41).unwrap().named);
        // Executed from a thread: the process goes on counting as before.
        tree.executed(10, 20);
        assert!(!tree.knows(20));
        assert_eq!(text(&mut tree, 10), "1/1#3");
    }

    #[test]
    fn a_call_that_is_made_again_after_a_signal_keeps_its_number() {
        let mut tree: Tree<()> = Tree::new(10);
        let thread = tree.get(10).unwrap();
        assert_eq!(thread.next_call([1; 9]), (1, false));
        thread.interrupted = Some((1, [1; 9]));
        // The signal's handler makes calls of its own.
        assert_eq!(thread.next_call([2; 9]), (2, false));
        assert_eq!(thread.next_call([1; 9]), (1, true));
        assert_eq!(thread.next_call([1; 9]), (3, false));
    }
}
