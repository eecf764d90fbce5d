package testcluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestCompiledTellsHowFarItIs(t *testing.T) {
	var told []string
	c := &compiled{all: 100, progress: func(step string) { told = append(told, step) }, next: time.Now().Add(time.Hour)}
	for i := range 30 {
		fmt.Fprintf(c, "example.org/%d\nexample.org/half", i)
		fmt.Fprint(c, "-line\n")
	}
	assert.Empty(t, told)
	c.next = time.Now()
	time.Sleep(time.Millisecond)
	fmt.Fprint(c, "# example.org/failing\nmain.go:1: oops\n")
	assert.Equal(t, []string{"compiled 62 of 100 packages"}, told)
	assert.Len(t, c.last, 20)
	assert.Equal(t, []string{"example.org/half-line", "# example.org/failing", "main.go:1: oops"}, c.last[17:])
}
