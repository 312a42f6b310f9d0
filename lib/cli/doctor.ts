// What `hypertwin doctor` shows: the report and its text. The looking is done in lib/kvm.
export { doctor, renderDoctor, type DoctorOptions, type DoctorReport } from '../kvm/doctor.js'
