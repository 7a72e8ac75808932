//! stub
mod labeler;
