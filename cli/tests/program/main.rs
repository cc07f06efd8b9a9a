//! The real program from outside: started, talked to through `--json`, signalled, killed.

mod demo;
mod faults;
mod harness;
mod line;
mod shell;
mod stop;
