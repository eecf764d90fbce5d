package kube

// SameRepository is sameRepository.
var SameRepository = sameRepository
