//! Answers requests for files: which file a path names, which part of it was asked for, and a body that reads it in pieces.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use demi::task::{JoinHandle, spawn_blocking};
use http_body::{Body, Frame, SizeHint};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

/// Bytes read and sent at a time.
const PIECE: u64 = 64 * 1024;

/// The answer to `request` out of `folder`.
pub(crate) async fn answer<B>(folder: &Path, request: &Request<B>) -> Response<FileBody> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let Some(path) = resolve(folder, request.uri().path()) else { return status(StatusCode::NOT_FOUND) };
    let folder = folder.to_owned();
    let opened = spawn_blocking(move || open(&folder, path)).await;
    match opened {
        Ok(Ok((file, path, metadata))) => {
            found(file, &path, &metadata, request.headers(), request.method() == Method::HEAD)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => status(StatusCode::FORBIDDEN),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => status(StatusCode::NOT_FOUND),
        Ok(Err(_)) | Err(_) => status(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// The path below `folder` that a request's path names; `None` when it names nothing below it.
fn resolve(folder: &Path, requested: &str) -> Option<PathBuf> {
    let decoded = percent_encoding::percent_decode_str(requested).decode_utf8().ok()?;
    let relative = Path::new(decoded.trim_start_matches('/'));
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    (plain && !decoded.contains('\0')).then(|| folder.join(relative))
}

/// Opens the file at `path`, or the index of the folder there. Links may not lead out of `folder`.
fn open(folder: &Path, path: PathBuf) -> io::Result<(File, PathBuf, Metadata)> {
    let mut path = path.canonicalize()?;
    if path.is_dir() {
        path.push("index.html");
        path = path.canonicalize()?;
    }
    if !path.starts_with(folder) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let file = File::open(&path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok((file, path, metadata))
}

fn found(
    mut file: File,
    path: &Path,
    metadata: &Metadata,
    asked: &HeaderMap,
    head: bool,
) -> Response<FileBody> {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    if unchanged_since(asked, modified) {
        return status(StatusCode::NOT_MODIFIED);
    }
    let total = metadata.len();
    let range = match asked.get(header::RANGE).and_then(|range| range.to_str().ok()) {
        Some(range) => parse_range(range, total),
        None => Range::Whole,
    };
    let (start, length, code) = match range {
        Range::Whole => (0, total, StatusCode::OK),
        Range::Part { start, length } => (start, length, StatusCode::PARTIAL_CONTENT),
        Range::Unsatisfiable => {
            let mut response = status(StatusCode::RANGE_NOT_SATISFIABLE);
            set(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{total}"));
            return response;
        }
    };
    if start > 0 && file.seek(SeekFrom::Start(start)).is_err() {
        return status(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let body = if head { FileBody::default() } else { FileBody::new(file, length) };
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    let kind = mime_guess::from_path(path).first_or_octet_stream();
    set(headers, header::CONTENT_TYPE, kind.as_ref());
    set(headers, header::LAST_MODIFIED, &httpdate::fmt_http_date(modified));
    set(headers, header::ACCEPT_RANGES, "bytes");
    set(headers, header::CONTENT_LENGTH, &length.to_string());
    if code == StatusCode::PARTIAL_CONTENT {
        let last = start + length - 1;
        set(headers, header::CONTENT_RANGE, &format!("bytes {start}-{last}/{total}"));
    }
    response
}

fn unchanged_since(asked: &HeaderMap, modified: SystemTime) -> bool {
    let since = asked.get(header::IF_MODIFIED_SINCE).and_then(|since| since.to_str().ok());
    let since = since.and_then(|since| httpdate::parse_http_date(since).ok());
    // HTTP dates are whole seconds: compare what was told, not what is on disk.
    since.is_some_and(|since| httpdate::HttpDate::from(modified) <= httpdate::HttpDate::from(since))
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part { start: u64, length: u64 },
    Unsatisfiable,
}

/// One range of bytes (RFC 9110 §14.1.2). Several, or another unit, are answered with the whole file, as allowed.
fn parse_range(range: &str, total: u64) -> Range {
    let bounds = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let Some((first, last)) = bounds else { return Range::Whole };
    let bound = |text: &str| if text.is_empty() { Ok(None) } else { text.trim().parse::<u64>().map(Some) };
    let (start, end) = match (bound(first), bound(last)) {
        (Ok(Some(first)), Ok(None)) => (first, total),
        (Ok(Some(first)), Ok(Some(last))) if first <= last => (first, last.saturating_add(1).min(total)),
        (Ok(None), Ok(Some(suffix))) => (total - suffix.min(total), total),
        _ => return Range::Whole,
    };
    if start < end { Range::Part { start, length: end - start } } else { Range::Unsatisfiable }
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn status(code: StatusCode) -> Response<FileBody> {
    let mut response = Response::new(FileBody::default());
    *response.status_mut() = code;
    response
}

/// Some bytes of a file, read in pieces on the blocking pool; the next piece is read while this one is being sent.
#[derive(Default)]
pub(crate) struct FileBody {
    /// Bytes not handed out yet.
    left: u64,
    reading: Option<JoinHandle<io::Result<(File, Vec<u8>)>>>,
}

impl FileBody {
    fn new(file: File, length: u64) -> Self {
        let mut body = FileBody { left: length, reading: None };
        body.read_on(file, length);
        body
    }

    fn read_on(&mut self, mut file: File, left: u64) {
        if left == 0 {
            return;
        }
        self.reading = Some(spawn_blocking(move || {
            let mut piece = vec![0; left.min(PIECE) as usize];
            file.read_exact(&mut piece)?;
            Ok((file, piece))
        }));
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(reading) = self.reading.as_mut() else { return Poll::Ready(None) };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        Poll::Ready(Some(match read {
            Ok(Ok((file, piece))) => {
                self.left -= piece.len() as u64;
                let left = self.left;
                self.read_on(file, left);
                Ok(Frame::data(piece.into()))
            }
            // The file has become shorter, or the disk failed: the client sees the connection end early.
            Ok(Err(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.reading.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_folder() {
        let folder = Path::new("/srv");
        assert_eq!(resolve(folder, "/a/b%20c"), Some("/srv/a/b c".into()));
        assert_eq!(resolve(folder, "/"), Some("/srv/".into()));
        for bad in ["/../etc/passwd", "/a/%2e%2e/%2e%2e/etc", "/a%00b", "/%ff"] {
            assert_eq!(resolve(folder, bad), None, "{bad}");
        }
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        let part = |start, length| Range::Part { start, length };
        for (text, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=5-", part(5, 5)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-99", part(0, 10)),
            ("bytes=2-99", part(2, 8)),
            ("bytes=10-", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=5-2", Range::Whole),
            ("bytes=1-2,4-5", Range::Whole),
            ("lines=1-2", Range::Whole),
            ("bytes=x-", Range::Whole),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
    }
}
