package kube

import "io"

// LineReader is how a file is handed to the parser.
func LineReader(data []byte) io.Reader { return &lineReader{data: data} }
