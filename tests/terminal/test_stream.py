"""An output stream outlives the pipe or terminal behind it."""

import os
from typing import TextIO

import pytest
from rich.console import Console

from study.terminal.stream import DetachableStream


def open_pipe() -> tuple[TextIO, TextIO]:
    """Both ends of a pipe: where it is read, and where it is written to without a buffer."""
    read_end, write_end = os.pipe()
    return os.fdopen(read_end), os.fdopen(write_end, "w", buffering=1)


def test_output_arrives_while_somebody_reads() -> None:
    reader, writer = open_pipe()
    stream = DetachableStream(writer)
    assert stream.write("first\n") == 6
    stream.flush()
    assert reader.readline() == "first\n"
    assert stream.encoding == writer.encoding
    reader.close()
    stream.write("last\n")  # so that closing has nothing to flush into the closed pipe
    writer.close()


def test_output_is_discarded_once_the_reader_has_gone() -> None:
    reader, writer = open_pipe()
    reader.close()
    with pytest.raises(BrokenPipeError):
        os.write(writer.fileno(), b"as any other stream does")
    stream = DetachableStream(writer)
    for number in range(1_000):
        assert stream.write(f"line {number}\n") > 0
        stream.flush()
    writer.close()


def test_a_console_continues_without_its_terminal() -> None:
    reader, writer = open_pipe()
    console = Console(file=DetachableStream(writer))  # type: ignore[arg-type]  # passes on all that a stream has
    console.print("before")
    assert reader.readline() == "before\n"
    reader.close()
    console.print("after " * 10_000)
    writer.close()
