package stage

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestIsDry(t *testing.T) {
	for _, value := range []string{"", "0", "false", "no", "OFF", " 0 "} {
		assert.False(t, isDry(value), value)
	}
	for _, value := range []string{"1", "true", "yes", "on", "please", "TRUE"} {
		assert.True(t, isDry(value), value)
	}
}
