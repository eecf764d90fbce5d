package otlp

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestJSON(t *testing.T) {
	span := Span{
		TraceID: ID{0xab, 0x01}, SpanID: ID{2}, Name: "test", Kind: Internal, Start: 1 << 63, End: 3,
		Attributes: []Attribute{String("a", ""), Int("b", -1), Strings("c", []string{"x", "y"})},
	}
	data, err := json.Marshal(Line{Span: &span})
	require.NoError(t, err)
	assert.JSONEq(t, `{"span":{"traceId":"ab01","spanId":"02","name":"test","kind":1,"startTimeUnixNano":"9223372036854775808","endTimeUnixNano":"3",
		"attributes":[{"key":"a","value":{"stringValue":""}},{"key":"b","value":{"intValue":"-1"}},
			{"key":"c","value":{"arrayValue":{"values":[{"stringValue":"x"},{"stringValue":"y"}]}}}]}}`, string(data))
	var line Line
	require.NoError(t, json.Unmarshal(data, &line))
	assert.Equal(t, &span, line.Span)
	assert.Error(t, json.Unmarshal([]byte(`{"span":{"endTimeUnixNano":"x"}}`), &line))
}
