// bench is a module of its own so that no other one gets its dependencies.
module github.com/kiosk-shop/kiosk/bench

go 1.26.0

require github.com/HdrHistogram/hdrhistogram-go v1.4.0
