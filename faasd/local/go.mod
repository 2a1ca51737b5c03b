module github.com/kiosk-shop/kiosk/faasd/local

go 1.26
