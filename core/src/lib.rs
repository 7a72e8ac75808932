//! trainyard-core
