package main

import (
	"encoding/binary"
	"math"
	"reflect"
	"strconv"
)

// The wire types of protobuf.
const (
	varint    = 0
	eight     = 1
	delimited = 2
	four      = 5
)

// protobuf encodes a message of package otlp by the field numbers in its pb tags. As proto3 has it, what is zero is left out
// unless it is behind a pointer; 32 and 64 bits without a sign are the fixed types, since OTLP has no other.
// Source: https://protobuf.dev/programming-guides/encoding/
func protobuf(message any) []byte {
	return appendMessage(nil, reflect.Indirect(reflect.ValueOf(message)))
}

func appendMessage(b []byte, message reflect.Value) []byte {
	of := message.Type()
	for i := range of.NumField() {
		number, _ := strconv.ParseUint(of.Field(i).Tag.Get("pb"), 10, 32)
		field := message.Field(i)
		switch {
		case field.Kind() == reflect.Pointer && field.IsNil():
		case field.Kind() == reflect.Pointer:
			b = appendField(b, number, field.Elem())
		case !field.IsZero():
			b = appendField(b, number, field)
		}
	}
	return b
}

func appendField(b []byte, number uint64, v reflect.Value) []byte {
	key := func(wireType uint64) { b = binary.AppendUvarint(b, number<<3|wireType) }
	bytes := func(data []byte) {
		key(delimited)
		b = append(binary.AppendUvarint(b, uint64(len(data))), data...)
	}
	switch v.Kind() {
	case reflect.String:
		bytes([]byte(v.String()))
	case reflect.Int32, reflect.Int64:
		key(varint)
		b = binary.AppendUvarint(b, uint64(v.Int()))
	case reflect.Uint32:
		key(four)
		b = binary.LittleEndian.AppendUint32(b, uint32(v.Uint()))
	case reflect.Uint64, reflect.Float64:
		key(eight)
		b = appendEight(b, v)
	case reflect.Struct:
		bytes(appendMessage(nil, v))
	case reflect.Slice:
		switch v.Type().Elem().Kind() {
		case reflect.Uint8:
			bytes(v.Bytes())
		case reflect.Struct:
			for i := range v.Len() {
				bytes(appendMessage(nil, v.Index(i)))
			}
		default: // numbers are packed
			var packed []byte
			for i := range v.Len() {
				packed = appendEight(packed, v.Index(i))
			}
			bytes(packed)
		}
	}
	return b
}

func appendEight(b []byte, v reflect.Value) []byte {
	if v.Kind() == reflect.Float64 {
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(v.Float()))
	}
	return binary.LittleEndian.AppendUint64(b, v.Uint())
}

// partialSuccess reads how much of a request was refused, and why, from an answer in protobuf: the fields 1 and 2 of the
// message in field 1. An answer that is something else says nothing.
func partialSuccess(answer []byte) (refused int, why string) {
	fields(answer, func(number, _ uint64, data []byte) {
		if number == 1 {
			fields(data, func(number, value uint64, data []byte) {
				switch number {
				case 1:
					refused = int(value)
				case 2:
					why = string(data)
				}
			})
		}
	})
	return max(refused, 0), why
}

// fields calls visit with the fields of a message, until one cannot be read.
func fields(message []byte, visit func(number, value uint64, data []byte)) {
	for len(message) > 0 {
		key, n := binary.Uvarint(message)
		if n <= 0 {
			return
		}
		message = message[n:]
		value, n := binary.Uvarint(message)
		if n <= 0 {
			return
		}
		message = message[n:]
		switch key & 7 {
		case varint:
			visit(key>>3, value, nil)
		case delimited:
			if value > uint64(len(message)) {
				return
			}
			visit(key>>3, 0, message[:value])
			message = message[value:]
		default:
			return
		}
	}
}
