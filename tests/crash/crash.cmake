unfold_test(NAME power_loss_test LABEL crash TIMEOUT 300 SOURCES crash/power_loss_test.cc crash/crash_file_system.cc
            LIBS unfold_store PkgConfig::ROCKSDB)
unfold_test(NAME disk_full_test LABEL crash TIMEOUT 300 SOURCES crash/disk_full_test.cc crash/crash_file_system.cc
            LIBS unfold_store PkgConfig::ROCKSDB)
