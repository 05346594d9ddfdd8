//! Tests of the format as a whole: hostile input, frozen vectors, the document, the reference.

mod hostile;
