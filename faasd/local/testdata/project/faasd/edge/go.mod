module github.com/kiosk-shop/kiosk/faasd/edge

go 1.26
